"""The channel's speed as ratios to Node, measured side by side in one run."""
