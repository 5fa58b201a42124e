"""What is stored and sent, as bytes and text: tokens, data, and data encrypted."""
