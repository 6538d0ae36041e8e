"""Executed notebooks as pages that load nothing from a network: one a notebook, and an index over all of them."""

from kit.experiments.pages.contents import Heading, heading, main_figure
from kit.experiments.pages.index import write_index
from kit.experiments.pages.page import to_html
