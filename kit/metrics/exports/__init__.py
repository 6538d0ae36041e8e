"""What was found, in the forms that other programs take."""

from kit.metrics.exports.maps import export_lesions, export_maps
