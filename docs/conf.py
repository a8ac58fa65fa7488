"""The settings of the documentation site; `make docs` builds it."""

from xlcore import __version__

project = "xlbridge"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["build", "demo.py"]
html_theme = "furo"
html_title = f"xlbridge {release}"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
default_role = "code"
myst_heading_anchors = 3
suppress_warnings = ["config.cache"]
