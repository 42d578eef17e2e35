"""One file a question; results as JSON lines with config, commit, versions and machine."""
