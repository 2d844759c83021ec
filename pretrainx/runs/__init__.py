"""From a config to the parts of a run, and the main job: train."""
