"""Numbers that people write are read exactly, and what cannot be read is refused with an example."""

import pytest

from archcost import InputError
from archcost.report.quantity import quantity
from archcost.report.units import bytes_text, si_text


@pytest.mark.parametrize(
    ("text", "unit", "number"),
    [
        ("26M", "", 26_000_000),
        ("25.557032M", "parameters", 25_557_032),
        ("26 M params", "parameters", 26_000_000),
        ("4.2G", "MACs", 4_200_000_000),
        ("4.2 GMACs", "MACs", 4_200_000_000),
        ("8.2GFLOPs", "FLOPs", 8_200_000_000),
        ("12 MB", "bytes", 12_000_000),
        ("12MiB", "bytes", 12 * 2**20),
        ("12M", "bytes", 12_000_000),
        ("700", "bytes", 700),
        ("1_000", "", 1000),
        ("1,000,000", "", 1_000_000),
        ("1e6", "", 1_000_000),
        ("2.5k", "", 2500),
        (".5", "", 0.5),
        (7, "", 7),
        (1.1, "", 1.1),
    ],
)
def test_a_number_is_read_as_people_write_it(text, unit, number):
    read = quantity(text, unit)
    assert read == number
    assert type(read) is type(number)


@pytest.mark.parametrize("number", [0, 1, 999, 1000, 4_090_000, 4_110_000_000])
def test_what_the_reports_print_is_read_back(number):
    assert quantity(si_text(number, "MACs"), "MACs") == pytest.approx(number, rel=5e-3)
    assert quantity(bytes_text(number), "bytes") == pytest.approx(number, rel=5e-3)


@pytest.mark.parametrize(
    ("value", "unit"),
    [
        *[(text, "") for text in ("26 millions", "-5", "", "nan", "inf", "26m", "M", "1e", "0x10", "12 MB")],
        *[(text, "bytes") for text in ("12 MACs", "12 iB", "12 mb", "12 MB/s")],
        *[(value, "MACs") for value in (True, None, float("nan"), float("inf"), -1, [1], "4.2 GiMACs")],
    ],
)
def test_what_cannot_be_read_is_refused_with_an_example(value, unit):
    with pytest.raises(InputError, match=r"max_macs: cannot read .*; write '"):
        quantity(value, unit, what="max_macs")
