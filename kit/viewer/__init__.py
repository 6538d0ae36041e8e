"""Widgets that look through scans, samples and errors, and the verdicts given there."""

from kit.viewer.errors import ErrorBrowser
from kit.viewer.samples import SampleBrowser
from kit.viewer.verdicts import VERDICTS, VerdictBook, VerdictError, apply_verdicts, read_verdicts, saved_maps
from kit.viewer.viewer import SliceViewer
from kit.viewer.volumes import ViewerError, checked_volumes, head_box, packed
