ALTER TABLE staff ADD COLUMN thinking_budget_tokens INTEGER CHECK (thinking_budget_tokens >= 1024);
PRAGMA user_version = 10;
