"""What everything stands on: tree paths, shared records, strict config, errors, random streams (floor 0)."""
