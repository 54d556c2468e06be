"""What several adapters share: the engagement table, posted authors, probes, write-behind."""
