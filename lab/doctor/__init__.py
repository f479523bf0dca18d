"""What this machine allows: each capability is tried, and a refusal is kept in the kernel's words."""
