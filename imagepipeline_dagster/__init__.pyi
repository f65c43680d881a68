"""The public names, and where they are defined."""

from .alerts.alert import Alert as Alert
from .alerts.slack import slack_webhook as slack_webhook
from .component import ImageDatasetComponent as ImageDatasetComponent
from .defs.alert_sensors import build_alerts as build_alerts
from .defs.dataset import ImageDataset as ImageDataset
from .defs.definitions import build_definitions as build_definitions
from .environment import resources_from_environment as resources_from_environment
from .io_manager import ParquetIOManager as ParquetIOManager
from .ledger.budget import Budget as Budget
from .moderation.policy import ModerationPolicy as ModerationPolicy
from .planning.approval import Approval as Approval
from .planning.prompts import GenerationDefaults as GenerationDefaults
from .purchase.canaries import Canaries as Canaries
from .release.dataset_release import DatasetRelease as DatasetRelease
from .release.dataset_release import latest_release as latest_release
from .release.policy import ReleasePolicy as ReleasePolicy
from .resources import GeneratedPictures as GeneratedPictures
from .resources import ImagePipelineResource as ImagePipelineResource
from .resources import LedgerResource as LedgerResource
from .resources import StorageResource as StorageResource
from .resources import TablesResource as TablesResource
from .tables.schema import TableMapping as TableMapping
from .watching.options import Watching as Watching

__all__: list[str]
