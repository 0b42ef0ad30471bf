/** What an empty conversation shows: who is here, and words to begin with. */
import type { Staff } from "./api.ts"
import { Avatar } from "./parts.tsx"

const OPENINGS = [
  "Hello! My name is Kim and I live in Bergen.",
  "I am learning the cello, and my sister Anna plays the piano.",
  "What do you know about me?",
]

export function Welcome({ staff, onPick }: { staff: Staff; onPick: (text: string) => void }) {
  return (
    <div className="welcome">
      <Avatar name={staff.name} />
      <h2 dir="auto">Talk to {staff.name}</h2>
      <p>
        {staff.memory_enabled
          ? "What you tell is remembered: ask about it later, here or in another conversation."
          : "Nothing is remembered beyond this conversation."}
      </p>
      <ul>
        {OPENINGS.map(opening => (
          <li key={opening}>
            <button type="button" onClick={() => onPick(opening)}>
              {opening}
            </button>
          </li>
        ))}
      </ul>
    </div>
  )
}
