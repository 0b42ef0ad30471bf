// Send message
await fetch(`/api/v1/staff/${staffId}/messages`, {
  method: 'POST',
  body: JSON.stringify({ content }),
});

// Poll for response
const interval = setInterval(async () => {
  const messages = await fetchMessages(staffId);
  const latest = messages[0];
  if (latest.message_type === 'assistant') {
    displayMessage(latest.content);
    clearInterval(interval);
  }
}, 1000);
