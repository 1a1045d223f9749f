# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from decnn_tvm.cluster_file import ClusterFile, ClusterLink, ClusterWorker, save_links
from decnn_tvm.errors import InputError
from decnn_tvm.keys import make_keys
from decnn_tvm.quantities import (
    format_rate,
    format_size,
    format_time,
    parse_rate,
    parse_size,
    parse_time,
)

WHOLE = """\
# the boards in the cupboard
[cluster]
credentials = "keys"
tracker = "192.168.1.2:9190"
coordinator_bandwidth = "2.5 Gb/s"

[[worker]]
name = "pi-1"
address = "192.168.1.11:9100"
target = "rpi4"
memory = "2 GiB"
tuning_key = "rpi4"

[[link]]
between = ["pi-1", "pi-2"]
bandwidth = "940 Mb/s"
latency = "0.2 ms"

[[worker]]
name = "pi-2"
address = "192.168.1.12:9100"
target = { kind = "llvm", mattr = ["+neon"], num-cores = 4 }   # the spare one

[[link]]
bandwidth = "1 Gb/s"
latency = "0 s"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "cluster.toml"
    path.write_text(text)
    return path


def test_a_whole_file(tmp_path: Path) -> None:
    path = write(tmp_path, WHOLE)
    cluster = ClusterFile.read(path)
    table = {"kind": "llvm", "mattr": ["+neon"], "num-cores": 4}
    one = ClusterWorker(
        name="pi-1",
        address="192.168.1.11:9100",
        target="rpi4",
        memory=2 << 30,
        tuning_key="rpi4",
    )
    two = ClusterWorker(name="pi-2", address="192.168.1.12:9100", target=table)
    own = ClusterLink(between=("pi-1", "pi-2"), bandwidth=940e6, latency=0.2e-3)
    every = ClusterLink(bandwidth=1e9, latency=0)
    assert cluster == ClusterFile(
        workers=(one, two),
        credentials=tmp_path / "keys",
        tracker="192.168.1.2:9190",
        links=(own, every),
        coordinator_bandwidth=2.5e9,
    )
    assert cluster.addresses == ("192.168.1.11:9100", "192.168.1.12:9100")
    assert cluster.targets == ("rpi4", table)
    assert cluster.link("pi-2", "pi-1") == own
    assert cluster.link("coordinator", "pi-1") == every

    cluster.write(path)
    again = ClusterFile.read(path)
    assert again == cluster and 'credentials = "keys"' in path.read_text()


def test_the_board_of_a_key(tmp_path: Path) -> None:
    cluster = ClusterFile.read(write(tmp_path, WHOLE))
    assert cluster.board().name == cluster.board("rpi4").name == "pi-1"
    with pytest.raises(InputError, match=r"'rpi5' of the cluster.*got none"):
        cluster.board("rpi5")
    mixed = WHOLE.replace('name = "pi-2"', 'name = "pi-2"\ntuning_key = "spare"')
    with pytest.raises(InputError, match="Pass --key"):
        ClusterFile.read(write(tmp_path, mixed)).board()


def test_the_least_file(tmp_path: Path) -> None:
    cluster = ClusterFile.read(
        write(tmp_path, '[[worker]]\nname = "a"\naddress = "127.0.0.1:7000"\n')
    )
    assert cluster == ClusterFile(workers=(ClusterWorker(name="a", address="127.0.0.1:7000"),))
    assert cluster.keys is None and cluster.link("a", "coordinator") is None


def test_the_coordinators_keys_are_found(tmp_path: Path) -> None:
    make_keys(tmp_path / "keys", ["pi-1", "pi-2"])
    path = write(tmp_path, WHOLE)
    assert ClusterFile.read(path).keys == tmp_path / "keys" / "coordinator"
    path = write(tmp_path, WHOLE.replace('"keys"', '"keys/coordinator"'))
    assert ClusterFile.read(path).keys == tmp_path / "keys" / "coordinator"


def test_links_are_replaced_and_comments_stay(tmp_path: Path) -> None:
    path = write(tmp_path, WHOLE)
    before = ClusterFile.read(path)
    links = (ClusterLink(between=("coordinator", "pi-2"), bandwidth=95.9e6, latency=1.5e-3),)
    save_links(path, links)
    after = ClusterFile.read(path)
    assert (after.links, after.workers, after.tracker) == (links, before.workers, before.tracker)
    assert "in the cupboard" in path.read_text() and "# the spare one" in path.read_text()


def test_links_in_another_form_are_not_damaged(tmp_path: Path) -> None:
    text = 'link = [{ bandwidth = "1 Gb/s", latency = "1 ms" }]\n' + WHOLE.split("[[link]]")[0]
    path = write(tmp_path, text)
    with pytest.raises(InputError, match="can't be replaced"):
        save_links(path, ())
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[cluster]", "[cluster", ["no TOML", "line 2", "decnn cluster init"]),
        ("[cluster]", "[clusters]", ["unknown key 'clusters'", "worker"]),
        ("tracker =", "traker =", ["[cluster]", "'traker'", "expected only credentials, tracker"]),
        ('"192.168.1.2:9190"', '"somewhere"', ["[cluster]", "tracker = 'somewhere'", "host:port"]),
        ('"192.168.1.11:9100"', "9100", ["worker]] 1 (name = 'pi-1')", "address = 9100"]),
        ('address = "192.168.1.12:9100"', "", ["[[worker]] 2", "no address", "add address = …"]),
        ("192.168.1.12:", "192.168.1.11:", ["address 192.168.1.11:9100 twice"]),
        ('name = "pi-2"', 'name = "pi-1"', ["expected two different ones"]),
        ('name = "pi-2"', 'name = "../pi"', ["'../pi'", "letters, digits"]),
        ('name = "pi-1"', 'name = "coordinator"', ["not 'coordinator'"]),
        ('"2 GiB"', '"much"', ["memory = 'much': expected a size", "64M"]),
        ('"2 GiB"', "2000", ["memory = 2000", "in quotes"]),
        ('"940 Mb/s"', '"940 MB/s"', ["[[link]] 1", "bandwidth = '940 MB/s'", "bits per second"]),
        ('"0.2 ms"', '"soon"', ["latency = 'soon'", "0.2 ms"]),
        ('["pi-1", "pi-2"]', '["pi-1", "pi-3"]', ["'pi-3'", "coordinator, pi-1, pi-2"]),
        ('["pi-1", "pi-2"]', '["pi-1", "pi-1"]', ["two different ones"]),
        ('between = ["pi-1", "pi-2"]', "", ["[[link]] between of every pair twice"]),
        ("[[worker]]", "[[board]]", ["expected two different ones"]),
    ],
)
def test_one_clear_error(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    assert old in WHOLE
    path = write(tmp_path, WHOLE.replace(old, new))
    with pytest.raises(InputError) as caught:
        ClusterFile.read(path)
    message = str(caught.value)
    assert message.startswith(f"cluster {path}: ") and "\n" not in message
    for word in words:
        assert word in message


def test_no_file_and_no_worker(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"No such file.*decnn cluster init"):
        ClusterFile.read(tmp_path / "none.toml")
    with pytest.raises(InputError, match="no worker; expected a"):
        ClusterFile.read(write(tmp_path, ""))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="it is no text"):
        ClusterFile.read(tmp_path / "binary.toml")


def test_quantities() -> None:
    sizes = {"64M": 64 << 20, "1.5G": 3 << 29, "2 GiB": 2 << 30, "512 MB": 512 << 20, "77 B": 77}
    assert {text: parse_size(text) for text in sizes} == sizes
    rates = {"940 Mb/s": 940e6, "1 Gbit/s": 1e9, "100Mbps": 100e6, "8 kb/s": 8e3, "9 b/s": 9}
    assert {text: parse_rate(text) for text in rates} == rates
    times = {"0.2 ms": 0.2e-3, "150us": 150e-6, "3 µs": 3e-6, "1.5 s": 1.5, "0 s": 0}
    assert {text: parse_time(text) for text in times} == pytest.approx(times)
    for size in sizes.values():
        assert parse_size(format_size(size)) == size
    for rate in rates.values():
        assert parse_rate(format_rate(rate)) == rate
    for seconds in times.values():
        assert parse_time(format_time(seconds)) == pytest.approx(seconds)
    for parse, text in ((parse_size, "0"), (parse_rate, "940 MB/s"), (parse_time, "-1 ms")):
        with pytest.raises(ValueError, match="expected"):
            parse(text)
