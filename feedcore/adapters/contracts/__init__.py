"""What engines need of each other: announcements, job ids, the replica of node-wide state."""
