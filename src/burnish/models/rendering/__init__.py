"""Parts of rendering a conversation: turns, tool calls, special tokens, windows of long text."""
