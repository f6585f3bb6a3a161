"""The Python examples of README.md, by the heading that they stand under."""

import re

from tests.support.paths import ROOT


def python_examples(heading: str) -> list[str]:
    """Return the blocks of a section, in order; there must be one."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    assert section is not None, f"README has no section '{heading}'"
    found = re.findall(r"^```python\n(.*?)^```$", section[1], re.M | re.S)
    assert found, f"section '{heading}' of README has no Python"
    return found
