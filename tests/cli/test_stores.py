"""``info``, ``convert`` and ``sketch``: what a store holds, how to rewrite it, and how hard it is."""

from __future__ import annotations

import h5py
import numcodecs
import numpy as np
import pytest
import zarr

import nysstream


def test_info_describes_every_array(cli, store):
    done = cli("info", store, "--json")
    assert done.code == 0, done.err
    found = {array["name"]: array for array in done.json["arrays"]}
    assert found.keys() == {"x", "y", "weight"}
    x = found["x"]
    assert (x["shape"], x["dtype"], x["chunks"]) == ([600, 12], "float32", [100, 12])
    assert (x["codec"], x["nbytes"], x["committed_rows"], x["advice"]) == (
        "blosc-lz4 crc32c",
        28800,
        600,
        [],
    )
    assert x["stored_bytes"] > 0
    assert x["fingerprint"] == nysstream.open(store, "x").fingerprint
    assert [array["name"] for array in cli("info", store, "--data", "y", "--json").json["arrays"]] == ["y"]
    text = cli("info", store).out
    assert "600 × 12" in text
    assert x["fingerprint"] in text


def test_info_reads_every_kind_of_store(cli, tmp_path, data):
    X, y = data
    np.save(tmp_path / "x.npy", X)
    (array,) = cli("info", "x.npy", "--json").json["arrays"]
    assert (array["shape"], array["chunks"], array["codec"]) == ([600, 12], None, "none")
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file.create_dataset("train/X", data=X, chunks=(50, 12), compression="gzip", shuffle=True)
        file["y"] = y
        file["names"] = np.array([b"a", b"b"])
    found = {array["name"]: array for array in cli("info", "d.h5", "--json").json["arrays"]}
    assert found["train/X"]["codec"] == "shuffle deflate"
    assert found["train/X"]["chunks"] == [50, 12]
    assert found["y"]["chunks"] is None
    assert "cannot be streamed" in found["names"]["advice"][0]
    group = zarr.open_group(tmp_path / "v2.zarr", mode="w", zarr_format=2)
    group.create_array("x", data=X, chunks=(100, 12), compressors=numcodecs.Zstd(level=1))
    sharded = zarr.open_group(tmp_path / "v3.zarr", mode="w")
    sharded.create_array("x", data=X, chunks=(50, 12), shards=(100, 12))
    (array,) = cli("info", "v2.zarr", "--json").json["arrays"]
    assert array["codec"] == "zstd"
    (array,) = cli("info", "v3.zarr", "--json").json["arrays"]
    assert array["codec"] == "zstd, in shards of chunks (50, 12)"
    assert array["chunks"] == [100, 12]


@pytest.mark.parametrize(
    ("shape", "chunks", "advice"),
    [
        ((3000, 6000), (3000, 6000), "MiB, and so held in every buffer"),
        ((500, 400), (500, 4), "a row is spread over 100 chunks"),
        ((3000, 2), (1, 2), "chunks of 8 bytes are small"),
    ],
)
def test_info_advises_against_layouts_that_do_not_stream(shape, chunks, advice, cli, tmp_path):
    array = zarr.create_array(tmp_path / "bad.zarr", shape=shape, chunks=chunks, dtype="f4", fill_value=1)
    array.attrs["anything"] = 1
    done = cli("info", "bad.zarr", "--json")
    assert done.code == 0
    assert "chunks are absent" in done.err
    (found,) = done.json["arrays"]
    assert advice in found["advice"][0]
    assert "nysstream convert" in found["advice"][0]


def test_info_advises_against_fortran_order(cli, tmp_path):
    np.save(tmp_path / "x.npy", np.asfortranarray(np.ones((10, 5))))
    (array,) = cli("info", "x.npy", "--json").json["arrays"]
    assert "columns are contiguous" in array["advice"][0]


def test_info_names_what_it_cannot_read(cli, store, tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY\x01")
    (tmp_path / "cut.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    (tmp_path / "empty.zarr").mkdir()
    for name in ("a.csv", "cut.npy", "cut.h5", "empty.zarr", "nowhere.zarr"):
        done = cli("info", name)
        assert done.code == 2, name
        assert name in done.err
    assert "its arrays are" in cli("info", store, "--data", "z").err


def test_convert_reads_tables(cli, tmp_path):
    (tmp_path / "t.csv").write_text("a;b;t;u\n1;2;3;4\n5;6;7;8\n")
    arguments = [
        "--delimiter",
        ";",
        "--target",
        "t",
        "--weight",
        "u",
        "--columns",
        "b,a",
        "--dtype",
        "float32",
    ]
    done = cli("convert", "t.csv", "out.zarr", *arguments, "--json")
    assert done.code == 0, done.err
    assert done.json["n_rows"] == 2
    assert done.json["arrays"]["x"] == {"shape": [2, 2], "dtype": "float32"}
    group = zarr.open_group("out.zarr", mode="r")
    assert group["x"][:].tolist() == [[2, 1], [6, 5]]
    assert (group["y"][:].tolist(), group["weight"][:].tolist()) == ([3, 7], [4, 8])


def test_convert_rewrites_stores(cli, tmp_path, data):
    X, y = data
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["train/X"], file["t"] = X, y
    np.save(tmp_path / "w.npy", np.ones(600))
    done = cli(
        "convert", "d.h5", "out.zarr", "--data", "train/X", "--target", "t", "--weight", "w.npy",
        "--rows", "100:500", "--chunk-rows", 50, "--codec", "zstd", "--checksum", "--memory", "2GiB",
    )  # fmt: skip
    assert done.code == 0, done.err
    group = zarr.open_group("out.zarr", mode="r")
    np.testing.assert_array_equal(group["x"][:], X[100:500])
    np.testing.assert_array_equal(group["y"][:], y[100:500])
    assert group["x"].chunks == (50, 12)
    assert "out.zarr" in done.out
    assert cli("convert", "d.h5", "out.zarr", "--data", "train/X").code == 2
    done = cli(
        "convert", "d.h5", "out.zarr", "--data", "train/X", "--target", "t", "--shuffle", 3, "--overwrite"
    )
    assert done.code == 0, done.err
    group = zarr.open_group("out.zarr", mode="r")
    order = np.lexsort(group["x"][:].T)
    expected = np.lexsort(X.T)
    np.testing.assert_array_equal(group["x"][:][order], X[expected])
    np.testing.assert_array_equal(group["y"][:][order], y[expected])
    assert not np.array_equal(group["x"][:], X)


def test_convert_names_the_bad_value_and_leaves_nothing(cli, tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3,\n")
    done = cli("convert", "t.csv", "out.zarr")
    assert done.code == 2
    assert "b" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_sketch_agrees_with_the_spectrum(cli, store, data, tmp_path):
    X = data[0].astype(np.float64)
    values, vectors = np.linalg.eigh((X - X.mean(axis=0)).T @ (X - X.mean(axis=0)))
    done = cli("sketch", store, "--alpha", 1, "--alpha", 500, "--out", "s.zarr", "--json")
    assert done.code == 0, done.err
    record = done.json
    assert (record["passes"], record["rank"]) == (1, 12)
    np.testing.assert_allclose(record["values"], values[::-1], rtol=1e-4)
    assert record["trace_captured"] == pytest.approx(1, rel=1e-4)
    for prediction, alpha in zip(record["predictions"], (1, 500), strict=True):
        lower, upper = prediction["effective_dimension"]
        dimension = float(np.sum(values / (values + alpha)))
        assert lower * 0.999 <= dimension <= upper * 1.001
    group = zarr.open_group("s.zarr", mode="r")
    assert group.attrs["format"] == "nysstream-sketch"
    np.testing.assert_allclose(np.abs(group["vectors"][:, 0]), np.abs(vectors[:, -1]), atol=1e-3)
    assert cli("sketch", store, "--out", "s.zarr").code == 2


def test_sketch_of_low_rank_bounds_the_passes_of_a_fit(cli, store):
    record = cli(
        "sketch", store, "--rank", 6, "--alpha", 300, "--no-intercept", "--standardize", "--json"
    ).json
    (prediction,) = record["predictions"]
    assert prediction["condition_number"] >= 1
    fitted = cli(
        "fit", "ridge", store, "--rank", 6, "--alpha", 300, "--no-intercept", "--standardize", "--json"
    ).json  # fmt: skip
    assert fitted["iterations"] <= prediction["iterations"]
    text = cli(
        "sketch", store, "--rank", 6, "--alpha", 300, "--features", "fourier:20,length_scale=median"
    ).out
    assert "For alpha 300" in text
    assert "Trace captured" in text


@pytest.mark.parametrize("option", [["--alpha", 0], ["--tol", 0], ["--rank", 99], ["--precision", "half"]])
def test_sketch_refuses(option, cli, store):
    assert cli("sketch", store, *option).code == 2


def test_a_conversion_with_a_checkpoint(cli, store, tmp_path):
    arguments = ["convert", store, "out.zarr", "--data", "x", "--target", "y", "--checkpoint", "c"]
    done = cli(*arguments, "--json")
    assert done.code == 0, done.err
    assert cli(*arguments).code == 2  # there is a checkpoint, and a store
    before = (tmp_path / "out.zarr").stat().st_ino
    assert cli(*arguments, "--resume", "--json").json == done.json
    assert (tmp_path / "out.zarr").stat().st_ino == before
    changed = cli(*arguments, "--resume", "--codec", "zstd")
    assert changed.code == 1
    assert "codec was blosc-lz4, now zstd" in changed.err
    assert cli("convert", store, "o.h5", "--data", "x", "--resume").code == 2


def test_a_sketch_with_a_checkpoint(cli, store):
    arguments = ["sketch", store, "--rank", 6, "--out", "s.zarr", "--checkpoint", "c", "--json"]
    first = cli(*arguments).json
    again = cli(*arguments, "--resume", "--alpha", 3).json
    assert first["passes_recalled"] == 0 < again["passes_recalled"] == first["passes"]
    assert again["values"] == first["values"]
    assert [item["alpha"] for item in again["predictions"]] == [3]
    refused = cli(*arguments, "--resume", "--seed", 5)
    assert refused.code == 1
    assert "--seed was 0, now 5" in refused.err or "random_state was 0, now 5" in refused.err
