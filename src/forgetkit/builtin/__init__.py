"""The components that come with forgetkit, one per file, offered through the same hooks as anybody's."""
