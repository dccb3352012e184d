"""Pickles of plain values: equal to what the real loader gives, and nothing else is read or run."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from picture_files import pickle_as_python2

from fdlab.core.errors import UserError
from fdlab.data.pickled import MOST_STEPS, read_pickle

PLAIN = {
    b"batch_label": b"testing batch 1 of 1",
    b"labels": [*range(256), 256, 65535, 65536, -1],
    b"filenames": [b"a.png", b"b" * 300, b"\xe4.png", b""],
    b"empty": [],
    b"one": [7],
    b"meta": {b"num_vis": 3072},
    b"data": np.arange(60, dtype=np.uint8).reshape(5, 12),
}


def text(word: str) -> bytes:
    return b"U" + bytes([len(word)]) + word.encode()


def array(shape=b"K\x02K\x03\x86", kind=b"U\x02u1", data=b"U\x06abcdef", order=b"|") -> bytes:
    """An array's opcodes below the key a, with some of its parts replaced."""
    return (
        b"\x80\x02}U\x01acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01" + shape + b"cnumpy\ndtype\n" + kind + b"K\x00K\x01\x87R(K\x03U\x01" + order
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89" + data + b"tbs."
    )  # fmt: skip


def test_plain_values_are_read_as_the_real_loader_reads_them():
    content = pickle_as_python2(PLAIN)
    wanted = pickle.loads(content, encoding="bytes")
    found = read_pickle(content, "x")
    assert list(found) == [key.decode() for key in wanted]
    for key, value in wanted.items():
        if key == b"data":
            assert found["data"].dtype == np.uint8 and np.array_equal(found["data"], value)
            assert np.array_equal(value, PLAIN[b"data"])
        else:
            assert found[key.decode()] == value == PLAIN[key]


def test_an_array_by_columns_and_one_without_an_end_of_its_own():
    turned = np.asfortranarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    assert np.array_equal(read_pickle(pickle_as_python2({b"a": turned}), "x")["a"], turned)
    assert read_pickle(array(), "x")["a"].tobytes() == b"abcdef"
    twice = read_pickle(b"\x80\x02}(U\x01a]q\x01K\x05aU\x01bh\x01u.", "x")
    assert twice == {"a": [5], "b": [5]} and twice["a"] is twice["b"]


RUNNING = {  # under the real loader each of these runs the command
    "reduce": lambda command: b"\x80\x02cos\nsystem\n" + text(command) + b"\x85R.",
    "posix": lambda command: b"\x80\x02cposix\nsystem\n" + text(command) + b"\x85R.",
    "inside": lambda command: (
        b"\x80\x02}U\x04datacos\nsystem\n" + text(command) + b"\x85Rs."
    ),
    "stack_global": lambda command: (
        b"\x80\x02U\x02osU\x06system\x93" + text(command) + b"\x85R."
    ),
    "inst": lambda command: b"\x80\x02(" + text(command) + b"ios\nsystem\n.",
    "obj": lambda command: b"\x80\x02(cos\nsystem\n" + text(command) + b"o.",
    "eval": lambda command: (
        b"\x80\x02c__builtin__\neval\n" + text(f"__import__('os').system('{command}')") + b"\x85R."
    ),
    "dotted": lambda command: (
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c" + text(command)[1:] + b"\x85R."
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", RUNNING)
def test_what_would_run_code_is_refused_and_runs_nothing(tmp_path, way):
    content = RUNNING[way](f"touch {tmp_path}/r")
    pickle.loads(content)
    assert (tmp_path / "r").exists()  # the file is as dangerous as it looks
    (tmp_path / "r").unlink()
    with pytest.raises(UserError, match=r"^train: .*nothing in it was run$") as refused:
        read_pickle(content, "train")
    assert len(str(refused.value).splitlines()) == 1 and not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x80\x02cos\nsystem\n.", "names os.system"),
        (b"\x80\x02cnumpy\nload\n.", "names numpy.load"),
        (b"\x80\x02cnumpy.core.multiarray\n_reconstruct.x\n.", "names numpy.core.multi"),
        (b"\x80\x02c" + b"o" * 5000, "a name without an end at byte 3"),
        (b"\x80\x02U\x02osU\x06system\x93.", r"opcode STACK_GLOBAL \(0x93\) at byte 14"),
        (b"\x80\x02cnumpy\nndarray\nK\x00\x85\x81.", "opcode NEWOBJ"),
        (b"\x80\x02(cnumpy\nndarray\nK\x00o.", "opcode OBJ"),
        (b"\x80\x02\x82\x01.", "opcode EXT1"),
        (b"\x80\x02\x83\x01\x01.", "opcode EXT2"),
        (b"\x80\x02\x84\x01\x01\x01\x01.", "opcode EXT4"),
        (b"\x80\x02Pname\n.", "opcode PERSID"),
        (b"\x80\x02U\x01aQ.", "opcode BINPERSID"),
        (b"\x80\x02\xff.", "opcode 0xff"),
        (b"\x80\x02}cnumpy\nndarray\n}b.", "another type than its use"),
        (b"\x80\x02cnumpy\nndarray\nK\x00\x85R.", "calls numpy.ndarray otherwise"),
        (b"\x80\x02cnumpy\ndtype\nU\x02O8K\x00K\x01\x87R.", "calls numpy.dtype otherwise"),
        (b"\x80\x02K\x01K\x01\x85R.", "another type than its use"),
        (array(kind=b"U\x02i8"), "calls numpy.dtype otherwise"),
        (array(order=b"<"), "other elements than unsigned bytes"),
        (array(shape=b"M\x10'M\x00\x0c\x86"), "array of 10,000 × 3,072 in 6 bytes"),
        (array(shape=b"J\xff\xff\xff\xffJ\xfa\xff\xff\xff\x86"), "not up to 4 sizes"),
        (array(shape=b"(" + b"J\xff\xff\xff\x7f" * 1000 + b"t"), "not up to 4 sizes"),
        (array(shape=b"K\x06"), "another notation than NumPy's"),
        (array(data=b"]"), "another notation than NumPy's"),
        (array()[:-3] + b"s.", "another type than its use"),
        (b"\x80\x02T\xff\xff\xff\x7fab", "announces 2,147,483,647 bytes at byte 7 and has 2"),
        (b"\x80\x02T\xff\xff\xff\xffab", "announces -1 bytes"),
        (b"\x80\x02h\x05.", "recalls value 5, which it has not given"),
        (b"\x80\x02e.", "takes a mark that is not there"),
        (b"\x80\x02(.", "takes a value that is not there"),
        (b"\x80\x02}K\x01K\x02s.", "a key that is no text"),
        (b"\x80\x02}(U\x01au.", "a key that is no text"),
        (b"\x80\x02].", "holds a list"),
        (b"\x80\x02U\x01a.", "holds a bytes"),
        (b"\x80\x02" + b"(" * (MOST_STEPS + 9), "more than 1,048,576 opcodes"),
        (pickle.dumps({"a": 1}, 0), "opcode DICT|opcode PUT|opcode UNICODE"),
        (pickle.dumps({"a": 1}, 3), "protocol 3, and 2 is read here"),
        (pickle.dumps({"a": 1}), "of protocol"),
        (b"", "announces 1 bytes at byte 0 and has 0"),
        (b"GIF89a", "opcode"),
    ],
)  # fmt: skip
def test_everything_else_is_refused_with_what_was_found(content, reason):
    with pytest.raises(UserError, match=reason):
        read_pickle(content, "batch")


def test_a_file_that_is_cut_off_anywhere_is_refused():
    content = pickle_as_python2({b"labels": [1, 300], b"data": np.ones((2, 3), np.uint8)})
    for end in range(len(content)):
        with pytest.raises(UserError, match=r"^cut: "):
            read_pickle(content[:end], "cut")


def test_a_memo_bomb_stays_as_small_as_its_file():
    """A list of the list before, twice, sixty times: 2^60 entries if anybody copied them."""
    levels = b"".join(
        b"]q" + bytes([k]) + b"(h" + bytes([k - 1]) + b"h" + bytes([k - 1]) + b"e"
        for k in range(1, 61)
    )  # fmt: skip
    content = b"\x80\x02]q\x00" + levels + b"}U\x01ah" + bytes([60]) + b"s."
    one, other = read_pickle(content, "bomb")["a"]
    assert one is other and len(one) == 2


CONTENT = pickle_as_python2({b"labels": [1, 2, 300], b"data": np.ones((2, 3), np.uint8)})


@given(st.lists(st.tuples(st.integers(0, len(CONTENT) - 1), st.integers(0, 255)), min_size=1))
def test_a_damaged_file_is_read_or_refused_and_nothing_else(changes):
    content = bytearray(CONTENT)
    for place, value in changes:
        content[place] = value
    try:
        found = read_pickle(bytes(content), "damaged")
    except UserError as error:
        assert str(error).startswith("damaged: ")
    else:
        assert isinstance(found, dict) and all(isinstance(key, str) for key in found)
