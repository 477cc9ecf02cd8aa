"""What crosses a process boundary: envelopes, payloads, snapshots, runs. Data, no behaviour."""
