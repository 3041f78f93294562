"""The scheduler on a fake and on a real engine: order, fairness, failures, replay, snapshots."""
