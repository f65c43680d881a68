"""The dataset, tried on an emulator of the API, in a folder of the test: nothing is paid."""

from definitions import dataset


def test_a_picture_is_bought_once_and_kept(imagepipeline_emulator, image_dataset_in, tmp_path):
    images = image_dataset_in(tmp_path, dataset=dataset)
    images.add_prompt("spring", "boat", "a red boat on a calm sea")
    imagepipeline_emulator.faults("rate_limited:times=2")

    images.materialize("spring")

    assert list(images.table("moderated_images", "spring")["verdict"]) == ["kept"]
    assert imagepipeline_emulator.stats.posts_accepted == 1
