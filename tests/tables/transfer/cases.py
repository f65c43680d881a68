"""Files as people have them: what is in each, what is said about it, and what comes of it."""

from __future__ import annotations

import gzip
import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from openpyxl import Workbook

Case = tuple[str, str | bytes, str, str | dict[str, Any] | list[dict[str, Any]]]
"""A file's name and content, the options of its `import-prompts`; then the message of its refusal,
or what the first row has, or what each has."""

HEAD = "prompt_set,prompt_id,prompt"
ROW = "s,a,a red kite\n"
KITE = {"prompt_set": "s", "prompt_id": "a", "prompt": "a red kite"}


def cell(column: str, value: str) -> str:
    """Return a CSV file with one row, which has this value in this column."""
    return f"{HEAD},{column}\ns,a,a red kite,{value}\n"


def line(**values: object) -> str:
    """Return a JSON Lines file with one row."""
    return json.dumps({**KITE, **values})


def workbook(*rows: dict[str, Any]) -> bytes:
    """Return an Excel file with these rows."""
    book, file = Workbook(), io.BytesIO()
    for cells in (list(rows[0]), *(list(row.values()) for row in rows)):
        book.worksheets[0].append(cells)
    book.save(file)
    return file.getvalue()


def parquet(*rows: dict[str, Any]) -> bytes:
    """Return a Parquet file with these rows."""
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), file)
    return file.getvalue()


PLAIN = f"{HEAD}\n{ROW}"
ARRAY = json.dumps([KITE, {**KITE, "prompt_id": "b"}])
TWO = [KITE, {**KITE, "prompt_id": "b"}]
ZSTD: bytes = pa.compress(PLAIN.encode(), codec="zstd", asbytes=True)

CASES: dict[str, Case] = {
    # what the bytes are
    "plain": ("a.csv", PLAIN, "", KITE),
    "gzip": ("a.csv.gz", gzip.compress(PLAIN.encode()), "", KITE),
    "gzip by another name": ("a.csv", gzip.compress(PLAIN.encode()), "", KITE),
    "zstandard": ("a.csv.zst", ZSTD, "", KITE),
    "zstandard by another name": ("a.csv", ZSTD, "", KITE),
    "gzip cut off": ("a.csv.gz", gzip.compress(PLAIN.encode())[:20], "", "cannot be unpacked"),
    "gzipped array": ("a.json.gz", gzip.compress(ARRAY.encode()), "", TWO),
    "git lfs": ("a.csv", "version https://git-lfs.github.com/spec/v1\noid x\n", "", "git lfs pull"),
    "zip": ("a.csv", b"PK\x03\x04 anything", "", "zip archive; unpack"),
    "old excel": ("a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1", "", "old Excel file"),
    "sqlite": ("a.csv", b"SQLite format 3\x00", "", "is an SQLite database"),
    "web page": ("a.csv", "<!DOCTYPE html><html>", "", "is a web page"),
    "pdf": ("a.csv", "%PDF-1.7", "", "PDF document"),
    "no parquet": ("a.parquet", "x", "", "is not a Parquet file"),
    "no workbook": ("a.xlsx", "x", "", "is not an Excel workbook"),
    "unknown ending": (
        "a.dat",
        "x",
        "",
        "'.dat'; files that can be read end in .csv",
    ),
    **{
        f"csv named {ending}": (f"a{ending}", PLAIN, "", KITE)
        for ending in (".xlsx", ".parquet", ".jsonl", ".json", ".txt", ".dat", "")
    },
    "lines named txt": ("a.txt", line(), "", KITE),
    "workbook": ("a.xlsx", workbook(KITE), "", KITE),
    "title above the headers": (
        "a.xlsx",
        workbook(
            dict.fromkeys(("Spring plan", "", " ")), dict(zip("xyz", KITE, strict=True)), KITE
        ),
        "",
        [KITE],
    ),
    "workbook named csv": ("a.csv", workbook(KITE), "", KITE),
    "workbook cut off": ("a.xlsx", workbook(KITE)[:900], "", "is not a whole Excel workbook"),
    "gzipped workbook": ("a.xlsx.gz", gzip.compress(workbook(KITE)), "", KITE),
    "parquet": ("a.parquet", parquet(KITE), "", KITE),
    "parquet named csv": ("a.csv", parquet(KITE), "", KITE),
    "embeddings": ("a.csv", "embedding_id,trigger_words\ne,film\n", "", "import-embeddings takes"),
    "empty": ("a.csv", "", "", "is empty"),
    "key twice": (
        "a.jsonl",
        f'{line()}\n{{"prompt": "a", "prompt_set": "s", "prompt": "b"}}',
        "",
        "line 2 has the key 'prompt' 2 times",
    ),
    "key twice in an array": (
        "a.json",
        f'[{line()},\n{{"prompt": "a", "prompt_set": "s", "prompt": "b"}}]',
        "",
        "line 2 has the key 'prompt' 2 times",
    ),
    "empty lines": ("a.jsonl", "\n\n", "", "is empty; it holds JSON objects"),
    # text
    "utf-8 mark": ("a.csv", "\ufeff" + PLAIN, "", KITE),
    "two marks": ("a.csv", "\ufeff\ufeff" + PLAIN, "", KITE),
    "utf-16": ("a.csv", PLAIN.encode("utf-16"), "", KITE),
    "utf-16 big end": ("a.csv", b"\xfe\xff" + PLAIN.encode("utf-16-be"), "", KITE),
    "utf-16 unmarked": ("a.csv", (PLAIN + "é").encode("utf-16-le"), "", "--encoding utf-16-le"),
    "utf-16 unmarked, big end": ("a.csv", PLAIN.encode("utf-16-be"), "", "--encoding utf-16-be"),
    "utf-16 of plain letters": ("a.csv", PLAIN.encode("utf-16-le"), "", "--encoding utf-16-le"),
    "utf-32": ("a.csv", PLAIN.encode("utf-32"), "", KITE),
    "utf-32 unmarked": ("a.jsonl", line().encode("utf-32-le"), "", "--encoding utf-32-le"),
    "cp1252": ("a.csv", f"{HEAD}\ns,a,a café\n".encode("cp1252"), "", "--encoding cp1252"),
    "cp1252 said": (
        "a.csv",
        f"{HEAD}\ns,a,a café\n".encode("cp1252"),
        "--encoding cp1252",
        {"prompt": "a café"},
    ),
    "an encoding that is none": ("a.csv", PLAIN, "--encoding hex", "is not hex text"),
    "another encoding said": ("a.csv", PLAIN, "--encoding utf-16", "is not utf-16 text"),
    "windows lines": ("a.csv", PLAIN.replace("\n", "\r\n"), "", KITE),
    "old mac": ("a.csv", PLAIN.replace("\n", "\r"), "", KITE),
    "lone return": ("a.csv", f"{HEAD}\ns,a,a red\rkite\n", "", {"prompt": "a red\rkite"}),
    "quoted return": ("a.csv", f'{HEAD}\ns,a,"a red\rkite"\n', "", {"prompt": "a red\rkite"}),
    "quoted lines": ("a.csv", f'{HEAD}\ns,a,"a red\nkite"\n', "", {"prompt": "a red\nkite"}),
    # CSV as it is written
    "blank first lines": ("a.csv", f"\n \n{PLAIN}", "", KITE),
    "rows of separators": ("a.csv", f"{PLAIN},,\n,,\n", "", [KITE]),
    "sep line": ("a.csv", f"sep=;\n{PLAIN.replace(',', ';')}", "", KITE),
    "semicolons": ("a.csv", PLAIN.replace(",", ";"), "", KITE),
    "comma in a header": (
        "a.csv",
        "prompt_set;prompt_id;prompt;note (short, plain)\ns;a;a red kite;x\n",
        "",
        KITE,
    ),
    "pipes": ("a.csv", "prompt_set|prompt_id|prompt\ns|a|red, long\n", "", {"prompt": "red, long"}),
    "tabs named csv": ("a.csv", PLAIN.replace(",", "\t"), "", KITE),
    "commas named tsv": ("a.tsv", PLAIN, "", KITE),
    "a delimiter of one's own": ("a.csv", PLAIN.replace(",", "~"), "--delimiter '~'", KITE),
    "space before a quote": ("a.csv", f'{HEAD}\ns,a, "red, long"\n', "", {"prompt": "red, long"}),
    "space before a quote of two lines": (
        "a.csv",
        f'{HEAD}\ns,a, "red,\nlong"\n',
        "",
        {"prompt": "red,\nlong"},
    ),
    "markdown": (
        "a.csv",
        "|prompt_set|prompt|\n|---|:---|\n|s|a red kite|\n",
        "",
        [{"prompt": "a red kite"}],
    ),
    "nothing to see": ("a.csv", f"{HEAD}\ns,a,\u200b \n", "", "is empty"),
    "space that is text": ("a.csv", f"{HEAD}\ns,a, red\n", "", {"prompt": " red"}),
    "quoted tsv": ("a.tsv", 'prompt_set\tprompt\ns\t"red, long"\n', "", {"prompt": "red, long"}),
    "plain tsv": ("a.tsv", 'prompt_set\tprompt\ns\t"GO" on a wall\n', "", "--no-quotes"),
    "plain tsv said": (
        "a.tsv",
        'prompt_set\tprompt\ns\t"GO" on a wall\n',
        "--no-quotes",
        {"prompt": '"GO" on a wall'},
    ),
    "repeated key": (
        "a.csv",
        f"{PLAIN}s,a,another\n",
        "",
        "line 3 repeats the prompt_set and prompt_id of line 2: 's' and 'a'",
    ),
    "ragged": ("a.csv", f"{HEAD}\ns,a\n", "", "line 2 has 2 fields where the header has 3"),
    "marked formula": ("a.csv", f"{HEAD}\ns,a,'=1+1\n", "", {"prompt": "=1+1"}),
    "formula": ("a.csv", f"{HEAD}\ns,a,=1+1\n", "", {"prompt": "=1+1"}),
    # other formats
    "a prompt a line": ("a.txt", "a red kite\n\n a blue one\n", "--set s", {"prompt_set": "s"}),
    "a prompt a line under a header": (
        "a.txt",
        "prompt\na red kite\n",
        "--set s",
        {"prompt": "a red kite"},
    ),
    "the set is the file": (
        "harbour.txt",
        "a red kite\n",
        "--set-from FILENAME",
        {"prompt_set": "harbour"},
    ),
    "the set is said twice": ("a.txt", "p\n", "--set s --set-from FILENAME", "leave one"),
    "prompts without a set": ("a.txt", "a red kite\n", "", "--set NAME"),
    "array": ("a.json", ARRAY, "", TWO),
    "pretty array": ("a.json", json.dumps(TWO, indent=2), "", TWO),
    "array named jsonl": ("a.jsonl", ARRAY, "", TWO),
    "lines named json": ("a.json", "\n".join(map(json.dumps, TWO)), "", TWO),
    "json named csv": ("a.csv", ARRAY, "", TWO),
    "one object of many lines": ("a.json", json.dumps(KITE, indent=2), "", "one array of objects"),
    "array cut off": ("a.json", ARRAY[:-3], "", "line 1 is not JSON"),
    "no text within an array": (
        "a.json",
        json.dumps(TWO, indent=2).encode().replace(b'"b"', b'"\xff"'),
        "",
        "is not UTF-8 text (byte 0xff",
    ),
    "array of texts": ("a.json", '["a"]', "", "is not a JSON object"),
    "digits without end": (
        "a.jsonl",
        f'{{"prompt_set": "s", "prompt": "p", "seed": {"9" * 5000}}}',
        "",
        "more than 4,300 digits",
    ),
    # words for nothing
    **{
        f"no value: {word}": ("a.csv", cell("model_id", word), "", {"model_id": None})
        for word in ("nan", "None", "NULL", "NA", "#NAME?", "\\N", "<NA>")
    },
    "no value in a number": ("a.csv", cell("seed", "\\N"), "", {"seed": None}),
    "no prompt": ("a.csv", f"{HEAD}\ns,a,nan\n", "", "what programs write where there is no value"),
    "no value in json": ("a.jsonl", line(model_id="NULL"), "", {"model_id": None}),
    # numbers
    "half a picture": (
        "a.tsv",
        "prompt_set\tprompt\tsamples\ns\tp\t0.5\n",
        "",
        "line 2, column 'samples': '0.5' is not a whole number from 1 to 10000",
    ),
    "shortened seed": ("a.csv", cell("seed", "1.23457E+09"), "", "digits are lost"),
    "shortened json": ("a.jsonl", line(seed=1).replace("1}", "1e+18}"), "", "not a whole number"),
    "exact seed": (
        "a.csv",
        cell("seed", "9007199254740993.0"),
        "",
        {"seed": 9007199254740993},
    ),
    "exact json": (
        "a.jsonl",
        line(seed=1).replace("1}", "9007199254740993.0}"),
        "",
        {"seed": 9007199254740993},
    ),
    "any seed": ("a.csv", cell("seed", "-1"), "", {"seed": None}),
    "any seed of a frame": ("a.csv", cell("seed", "-1.0"), "", {"seed": None}),
    "any seed in json": ("a.jsonl", line(seed=-1), "", {"seed": None}),
    "any seed in json as a float": ("a.jsonl", line(seed=-1.0), "", {"seed": None}),
    "any seed in a workbook": ("a.xlsx", workbook({**KITE, "seed": -1.0}), "", {"seed": None}),
    "5,000 digits in csv": (
        "a.csv",
        cell("seed", "9" * 5000),
        "",
        "is not a whole number from 0 to",
    ),
    "negative seed": ("a.csv", cell("seed", "-2"), "", "outside 0 to 9223372036854775807"),
    "unsigned seed in parquet": (
        "a.parquet",
        parquet({**KITE, "seed": "13518640391835498561"}),
        f"--seed-modulo {2**32}",
        {"seed": 13518640391835498561 % 2**32, "original_seed": "13518640391835498561"},
    ),
    "unsigned seed as a float": (
        "a.jsonl",
        line(seed=1).replace("1}", "13518640391835498561.0}"),
        f"--seed-modulo {2**32}",
        {"seed": 13518640391835498561 % 2**32, "original_seed": "13518640391835498561"},
    ),
    "falsch": ("a.csv", cell("refiner", "FALSCH"), "", {"refiner": False}),
    "vrai": ("a.csv", cell("safety_checker", "VRAI"), "", {"safety_checker": True}),
    "float32": ("a.jsonl", line(guidance_scale=7.099999904632568), "", {"guidance_scale": 7.1}),
    "unsigned seed": ("a.csv", cell("seed", "13518640391835498561"), "", "--seed-modulo"),
    "unsigned seed mapped": (
        "a.csv",
        cell("seed", "13518640391835498561"),
        f"--seed-modulo {2**32}",
        {"seed": 13518640391835498561 % 2**32, "original_seed": "13518640391835498561"},
    ),
    "decimal comma": ("a.csv", cell("guidance_scale", '"7,5"'), "", "--decimal ,"),
    "decimal comma said": (
        "a.csv",
        "prompt_set;prompt_id;prompt;guidance_scale;samples;refiner\ns;a;p;7,5;2,0;WAHR\n",
        "--decimal ,",
        {"guidance_scale": 7.5, "samples": 2, "refiner": True},
    ),
    # names
    "id of a frame": ("a.csv", f"{HEAD}\ns,1.0,p\n", "", {"prompt_id": "1"}),
    "id of a frame in json": ("a.jsonl", line(prompt_id=1.0), "", {"prompt_id": "1"}),
    "invisible in a set": ("a.csv", f"{HEAD}\ns\u200b\u00a0,a,p\n", "", {"prompt_set": "s"}),
    "composed in a set": ("a.csv", f"{HEAD}\ncafe\u0301,a,p\n", "", {"prompt_set": "café"}),
    "txt2img": ("a.csv", cell("task", "txt2img"), "", {"task": "text2image"}),
    "img2img": ("a.csv", cell("task", "img2img"), "", {"task": "image2image"}),
    "inpaint": ("a.csv", cell("task", "inpaint"), "", {"task": "inpainting"}),
    # headers
    "spaced headers": (
        "a.csv",
        "Prompt Set,Prompt ID,PROMPT,Negative-Prompt,Samples\ns,a,p,n,2\n",
        "",
        {"negative_prompt": "n", "samples": 2},
    ),
    "benchmark": (
        "a.csv",
        "Prompts,Category\np,Colors\n",
        "",
        "--map prompt_set=Category --map prompt=Prompts",
    ),
    "benchmark guessed": (
        "a.csv",
        "Prompts,Category\np,Colors\n",
        "--guess",
        {"prompt_set": "Colors", "prompt": "p"},
    ),
    "image tool": ("a.csv", "prompt,cfgs,steps\np,7,30\n", "--set s", "guidance_scale=cfgs"),
    "image tool guessed": (
        "a.csv",
        "prompt,sampler,cfgs,steps,filename\np,Euler a,7.5,30,1.png\n",
        "--set s --guess",
        {"scheduler": "Euler a", "guidance_scale": 7.5, "num_inference_steps": 30},
    ),
    "left out": (
        "a.csv",
        "prompt,steps\np,30\n",
        "--set s --ignore steps",
        {"prompt": "p", "num_inference_steps": None},
    ),
    "mistyped": ("a.csv", "promt,prompt_set\np,s\n", "", "--map prompt=promt"),
    "quoted for the shell": ("a.csv", "prompt_set,cfg|scale\ns,7\n", "", "'guidance_scale=cfg|sc"),
    "twice": ("a.csv", "prompt_set,prompt,Prompt\ns,p,q\n", "", "--ignore Prompt"),
    "nothing alike": ("a.csv", "x,y\n1,2\n", "", "--map prompt=HEADER"),
    "headers that are there": (
        "a.csv",
        "x,Art form\n1,2\n",
        "",
        "the file has 'x', 'Art form'. Say",
    ),
    "a set that nothing names": ("a.csv", "prompt\np\n", "", "no column is called 'prompt_set'"),
    "remark in a header": (
        "a.csv",
        "prompt_set,prompt (short)\ns,p\n",
        "",
        "'prompt=prompt (short)'",
    ),
    "mapped as it is meant": (
        "a.csv",
        "Set,My Prompt\ns,p\n",
        "--map 'prompt=my_prompt' --map prompt_set=SET",
        {"prompt_set": "s", "prompt": "p"},
    ),
    "ignored and not there": (
        "a.csv",
        PLAIN,
        "--ignore x",
        "no column 'x', which is to be ignored",
    ),
    "mapped twice": (
        "a.csv",
        "a,b\n1,2\n",
        "--map prompt=a --map prompt=b",
        "prompt is mapped twice",
    ),
    "styles": ("a.csv", 'name,prompt\nfilm,"{prompt}, film"\n', "--set s", "prompt_id=name"),
}
