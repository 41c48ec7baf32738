"""`--keep-conflicts` as text, there and back."""

import pytest

from redisrepl.settings.retention import Retention


@pytest.mark.parametrize(
    ("text", "max_bytes", "max_days", "again"),
    [
        ("64MiB,30d", 64 << 20, 30.0, "64MiB,30d"),
        (" 1.5GiB, 0.5d ", 3 << 29, 0.5, "1536MiB,0.5d"),
        ("2000000,7d", 2_000_000, 7.0, "2000000,7d"),
        ("2 mb,7D", 2_000_000, 7.0, "2000000,7d"),
        ("1024KiB,99999d", 1 << 20, 99_999.0, "1MiB,99999d"),
        ("1TiB,0.001d", 1 << 40, 0.001, "1048576MiB,0.001d"),
        ("off", 0, 0.0, "off"),
        (" OFF ", 0, 0.0, "off"),
    ],
)
def test_there_and_back(text, max_bytes, max_days, again):
    kept = Retention.parse(text)
    assert (kept.max_bytes, kept.max_days, str(kept)) == (max_bytes, max_days, again)
    assert Retention.parse(again) == kept


@pytest.mark.parametrize(
    "text",
    ["", "on", "64MiB", "30d", ",30d", "64MiB,", "64MiB,30", "64XB,30d", "1.2.3MiB,30d", "-64MiB,30d", "64MiB,-1d",
     "64MiB,infd", "64MiB,nand", "64MiB,30d,1", "64MiB,1e3d", "64MiB 30d", "9" * 5000 + ",30d", "\u0663MiB,30d"],
)  # fmt: skip
def test_what_is_no_retention(text):
    with pytest.raises(ValueError, match=r"^give a size and a number of days, such as 64MiB,30d, or off$"):
        Retention.parse(text)


@pytest.mark.parametrize("text", ["0,30d", "1023KiB,30d", "1025GiB,30d", "64MiB,0d", "64MiB,0.000d"])
def test_too_little_or_too_much_to_be_meant(text):
    with pytest.raises(ValueError, match=r"such as 64MiB,30d, or off: from 1MiB to 1TiB, and more than 0 days$"):
        Retention.parse(text)
