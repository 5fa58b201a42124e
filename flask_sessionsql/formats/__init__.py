"""What is stored and sent, as bytes and text: tokens, data, and encrypted data."""
