"""The commands of `dsd-client`. Each module is imported when its command runs."""
