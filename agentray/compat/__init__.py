"""Other systems' interfaces, translated: pure functions over what the gateway reads and writes."""
