"""What stands between services and slow or failing sources."""
