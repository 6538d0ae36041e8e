"""Research kit for finding and outlining brain metastases in T1-Gd MRI."""
