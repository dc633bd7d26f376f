"""The derivation: statements to decays, reads, writes and records, and what they cost."""
