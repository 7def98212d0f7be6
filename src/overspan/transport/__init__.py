"""Run a command on a host: here, over ssh, or on a scripted fake. The only room that starts a process."""
