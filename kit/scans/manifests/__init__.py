"""The cohort table: its text, its checks and its splits."""
