"""Parts of rendering a conversation: turns, tool calls, special tokens in text, windows of long text."""
