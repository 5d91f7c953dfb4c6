"""What an operator looks at: dashboards, alerts, and the servers that hold them."""
