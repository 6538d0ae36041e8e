"""Scans, labels and lesions in the forms that other programs take."""

from kit.scans.exports.datasets import ExportError, export_nnunet, list_lesions
