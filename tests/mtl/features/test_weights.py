import copy
import io
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from mtl.errors import InputError
from mtl.features.weights import load_weights, read_weights

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.count": torch.tensor(4)}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for key, value in other.items():
        assert one[key].dtype == value.dtype
        assert torch.equal(one[key], value)


def pickled(content: Any, zipped: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "bin"])
def test_safetensors_are_recognised_by_their_content(tmp_path: Path, suffix: str) -> None:
    save_file(STATE, tmp_path / f"w.{suffix}")
    same(read_weights(tmp_path / f"w.{suffix}"), STATE)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "content",
    [
        STATE,
        OrderedDict(STATE),
        {"model": STATE, "epoch": 3},
        {"state_dict": OrderedDict(STATE), "optimizer": {"lr": 0.1}},
        {"model_state": STATE},
        {"state_dict_backbone": STATE, "state_optimizer": {"lr": 0.1}},
        {"model": STATE, "args": Namespace(lr=0.1, betas=(0.9, 0.95), device="cuda")},
        {"model": {"state_dict": STATE}},
        {"module." + key: value for key, value in STATE.items()},
        {"state_dict": {"module.encoder." + key: value for key, value in STATE.items()}},
        {"backbone." + key: value for key, value in STATE.items()},
        {**STATE, "epoch": 3},
    ],
)
def test_torch_s_files_with_wrapped_weights(tmp_path: Path, content: Any, zipped: bool) -> None:
    (tmp_path / "w.pth").write_bytes(pickled(content, zipped))
    same(read_weights(str(tmp_path / "w.pth")), STATE)


def test_a_prefix_of_some_names_is_kept(tmp_path: Path) -> None:
    state = {"encoder.a": torch.ones(1), "b": torch.ones(1)}
    save_file(state, tmp_path / "w.safetensors")
    same(read_weights(tmp_path / "w.safetensors"), state)


def test_a_prefix_of_the_module_s_own_names_is_kept(tmp_path: Path) -> None:
    state = {"encoder." + key: value for key, value in STATE.items()}
    torch.save({"module." + key: value for key, value in state.items()}, tmp_path / "w.pth")
    same(read_weights(tmp_path / "w.pth", state), state)
    same(read_weights(tmp_path / "w.pth", STATE), STATE)


def test_a_file_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save_file(STATE, tmp_path / "w.safetensors")
    same(read_weights("~/w.safetensors"), STATE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floating_weights_are_read_in_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in STATE.items()}
    save_file(state, tmp_path / "w.safetensors")
    same(read_weights(tmp_path / "w.safetensors"), STATE)
    torch.save(state, tmp_path / "w.pth")
    same(read_weights(tmp_path / "w.pth"), STATE)


def jpeg() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "jpeg")
    return stream.getvalue()


NO_FILE_OF_WEIGHTS = {
    "text": b"these are no weights\n",
    "json": b'{"name": "{{{"}',
    "json where safetensors has its own": b'{"name":{"a": 1}}',
    "jpeg": jpeg(),
    "empty": b"",
    "short": b"PK",
    "zip": b"PK\x03\x04" + bytes(90),
    "cut": pickled(STATE)[:600],
    "cut, of before 1.6": pickled(STATE, zipped=False)[:40],
}


@pytest.mark.parametrize("name", NO_FILE_OF_WEIGHTS)
def test_a_file_without_weights_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "w.pth").write_bytes(NO_FILE_OF_WEIGHTS[name])
    with pytest.raises(InputError, match=r"w.pth is (damaged or )?no file of weights") as error:
        read_weights(tmp_path / "w.pth")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_of_torch_s_is_refused_wherever_it_is_cut(tmp_path: Path, zipped: bool) -> None:
    whole = pickled(STATE, zipped)
    for length in range(0, len(whole), 5):
        (tmp_path / "w.pth").write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"w\.pth (is|holds) "):
            read_weights(tmp_path / "w.pth")


def test_damaged_safetensors_are_refused(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "w.safetensors")
    whole = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(whole[:-5])
    with pytest.raises(InputError, match=r"w.safetensors is damaged"):
        read_weights(tmp_path / "w.safetensors")


class Touch:
    """Object that creates a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("around", [lambda code: code, lambda code: Namespace(code=code)])
def test_a_pickle_that_could_run_code_is_refused(
    tmp_path: Path, around: Callable[[Any], Any], zipped: bool
) -> None:
    for code in (nn.Linear(2, 2), Touch(tmp_path / "made")):
        content = pickled({"model": STATE, "args": around(code)}, zipped)
        (tmp_path / "w.pth").write_bytes(content)
        with pytest.raises(InputError, match=r"w.pth holds more than tensors.* as safetensors$"):
            read_weights(tmp_path / "w.pth")
    assert not (tmp_path / "made").exists()
    torch.load(tmp_path / "w.pth", weights_only=False)
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], {"model": {"lr": 1.0}}, 5])
def test_a_file_without_tensors_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"w.pth holds no tensors"):
        read_weights(tmp_path / "w.pth")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"w.pth do not exist"):
        read_weights(tmp_path / "w.pth")
    with pytest.raises(InputError, match="cannot read weights"):
        read_weights(tmp_path)


def module() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))


def test_all_weights_are_loaded() -> None:
    given = {k: torch.ones_like(v) * 2 for k, v in module().state_dict().items()}
    loaded = module()
    load_weights(loaded, given, "weights")
    same(loaded.state_dict(), given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"0.weight": None}, r"^x do not fit: 0\.weight is missing; they are probably"),
        ({"9.bias": torch.ones(1)}, r"^x do not fit: 9\.bias is unknown; "),
        (
            {"0.weight": torch.ones(4, 2), "0.bias": torch.tensor(1.0)},
            r"fit: 0\.weight \(4, 2\) for \(3, 2\), 0\.bias \(\) for \(3\) are of another shape; ",
        ),
        (
            {"0.weight": None, "0.bias": None, "1.weight": None, "1.bias": None, "2.bias": None},
            r"fit: 0\.weight, 0\.bias, 1\.weight and 2 more are missing; ",
        ),
        (
            {"0.weight": None, "weight": torch.ones(1), "2.bias": torch.ones(2)},
            r"0\.weight is missing; weight is unknown; 2\.bias \(2\) for \(1\) is of another shape",
        ),
    ],
)
def test_weights_that_do_not_fit_are_listed_and_none_is_loaded(
    changes: dict[str, Tensor | None], message: str
) -> None:
    kept = module()
    before = copy.deepcopy(kept.state_dict())
    changed = {k: torch.ones_like(v) for k, v in before.items()} | changes
    given = {key: value for key, value in changed.items() if value is not None}
    with pytest.raises(InputError, match=message) as error:
        load_weights(kept, given, "x")
    assert str(error.value).endswith("probably weights of another architecture or image size")
    same(kept.state_dict(), before)


def test_names_with_ignored_prefixes_are_optional() -> None:
    state = module().state_dict()
    load_weights(module(), state, "x", ["head.", "extra"])
    load_weights(module(), state | {"head.w": torch.ones(1)}, "x", ["head.", "extra"])
    with pytest.raises(InputError, match=r"header\.w is unknown"):
        load_weights(module(), state | {"header.w": torch.ones(1)}, "x", ["head.", "extra"])
    # Names of the module are required even if they have an ignored prefix.
    with pytest.raises(InputError, match=r"0\.bias is missing"):
        load_weights(module(), {k: v for k, v in state.items() if k != "0.bias"}, "x", ["0."])
