async function sendStreamingMessage(staffId: string, content: string) {
  const response = await fetch(`/api/v1/staff/${staffId}/messages/stream`, {
    method: 'POST',
    headers: {
      'Content-Type': 'application/json',
    },
    body: JSON.stringify({ content }),
  });

  const reader = response.body!.getReader();
  const decoder = new TextDecoder();
  let buffer = '';

  while (true) {
    const { done, value } = await reader.read();
    if (done) break;

    buffer += decoder.decode(value, { stream: true });

    // Process complete events
    const lines = buffer.split('\n');
    buffer = lines.pop() || ''; // Keep incomplete line in buffer

    for (const line of lines) {
      if (line.startsWith('data: ')) {
        const data = JSON.parse(line.slice(6));

        if (data.type === 'token') {
          // Display token in UI
          appendToMessage(data.content);
        } else if (data.type === 'done') {
          // Stream complete
          console.log('Message saved with ID:', data.message_id);
        } else if (data.type === 'error') {
          console.error('Stream error:', data.detail);
        }
      }
    }
  }
}
