"""The whole product from outside: over HTTP, through the command line, out of Kafka."""
