"""What runs behind the queue: turns over mailboxes, deliveries over journals."""
