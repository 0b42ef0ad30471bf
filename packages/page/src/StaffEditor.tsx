/** A staff member's fields, to make one or to change one. */
import { type FormEvent, useState } from "react"
import type { NewStaff, Staff } from "./api.ts"
import { useApi, useServer } from "./context.ts"
import { Dialog, ErrorText } from "./parts.tsx"
import { useAction } from "./useAction.ts"

export interface StaffEditorProps {
  /** Null for a new one. */
  staff: Staff | null
  /** The saved staff member; null when it was let go. */
  onSaved: (staff: Staff | null) => void
  onClose: () => void
}

export function StaffEditor({ staff, onSaved, onClose }: StaffEditorProps) {
  const api = useApi()
  const [fields, setFields] = useState(() => toForm(staff))
  const [isErasing, setErasing] = useState(false)
  const { me, models } = useServer()
  const save = useAction(async () => {
    const body = toFields(fields, staff)
    onSaved(await (staff === null ? api.createStaff(body) : api.updateStaff(staff.id, body)))
  })
  const set = (change: Partial<Form>) => setFields(known => ({ ...known, ...change }))
  const submit = (event: FormEvent) => {
    event.preventDefault()
    void save.run()
  }
  return (
    <Dialog title={staff === null ? "New staff member" : `Edit ${staff.name}`} onClose={onClose}>
      <form className="fields" onSubmit={submit}>
        <label>
          Name
          <input
            required
            maxLength={200}
            value={fields.name}
            dir="auto"
            onChange={e => set({ name: e.target.value })}
          />
        </label>
        <label>
          Role
          <input
            maxLength={200}
            value={fields.role}
            dir="auto"
            placeholder="e.g. a patient maths teacher"
            onChange={e => set({ role: e.target.value })}
          />
        </label>
        <label>
          Persona
          <textarea
            rows={6}
            value={fields.persona}
            dir="auto"
            placeholder="How they speak, what they know, what they care about"
            onChange={e => set({ persona: e.target.value })}
          />
        </label>
        <details>
          <summary>Model and limits</summary>
          <label>
            Model
            <input
              value={fields.model}
              list="models"
              placeholder={me?.model ?? "the server's"}
              onChange={e => set({ model: e.target.value })}
            />
            <datalist id="models">
              {models.map(({ name, input, output }) => (
                <option key={name} value={name}>
                  ${input} in, ${output} out for a million tokens
                </option>
              ))}
            </datalist>
          </label>
          <label>
            Context budget, tokens
            <input
              type="number"
              min={200}
              max={1_000_000}
              value={fields.budget}
              placeholder={me?.context_budget_tokens.toString()}
              onChange={e => set({ budget: e.target.value })}
            />
          </label>
          <label>
            Longest reply, tokens
            <input
              type="number"
              min={1}
              max={128_000}
              value={fields.longest}
              placeholder={me?.max_output_tokens.toString()}
              onChange={e => set({ longest: e.target.value })}
            />
          </label>
          <label className="check">
            <input
              type="checkbox"
              checked={fields.remembers}
              onChange={e => set({ remembers: e.target.checked })}
            />
            Remembers what it is told
          </label>
        </details>
        <ErrorText error={save.error} names={FIELD_NAMES} />
        <footer className="dialog-foot">
          {staff !== null && (
            <button type="button" className="danger quiet" onClick={() => setErasing(true)}>
              Let go…
            </button>
          )}
          <button type="submit" className="primary" disabled={save.isBusy || fields.name.trim() === ""}>
            Save
          </button>
        </footer>
      </form>
      {isErasing && staff && (
        <EraseStaff staff={staff} onErased={() => onSaved(null)} onClose={() => setErasing(false)} />
      )}
    </Dialog>
  )
}

/** How the fields are called here, by their names in the API. */
const FIELD_NAMES: Record<string, string> = {
  name: "Name",
  role: "Role",
  persona: "Persona",
  model: "Model",
  context_budget_tokens: "Context budget",
  max_output_tokens: "Longest reply",
}

interface EraseStaffProps {
  staff: Staff
  onErased: () => void
  onClose: () => void
}

/** Erasing takes conversations and memories of all users along, so the name has to be written out. */
function EraseStaff({ staff, onErased, onClose }: EraseStaffProps) {
  const api = useApi()
  const [typed, setTyped] = useState("")
  const erase = useAction(async () => {
    await api.deleteStaff(staff.id)
    onErased()
  })
  return (
    <Dialog title={`Let ${staff.name} go?`} onClose={onClose}>
      <p>
        <b dir="auto">{staff.name}</b> and everything that they hold, the conversations and memories of all
        users, are erased. This cannot be undone.
      </p>
      <div className="fields">
        <label>
          Write the name to confirm
          <input
            value={typed}
            dir="auto"
            autoComplete="off"
            onChange={event => setTyped(event.target.value)}
          />
        </label>
      </div>
      <ErrorText error={erase.error} />
      <footer className="dialog-foot">
        <button type="button" onClick={onClose}>
          Keep {staff.name}
        </button>
        <button
          type="button"
          className="danger"
          disabled={erase.isBusy || typed.trim() !== staff.name.trim()}
          onClick={() => void erase.run()}
        >
          Erase everything
        </button>
      </footer>
    </Dialog>
  )
}

interface Form {
  name: string
  role: string
  persona: string
  model: string
  budget: string
  longest: string
  remembers: boolean
}

function toForm(staff: Staff | null): Form {
  return {
    name: staff?.name ?? "",
    role: staff?.role ?? "",
    persona: staff?.persona ?? "",
    model: staff?.model ?? "",
    budget: staff?.context_budget_tokens?.toString() ?? "",
    longest: staff?.max_output_tokens?.toString() ?? "",
    remembers: staff?.memory_enabled ?? true,
  }
}

/** An empty box means the server's own value: null takes a value of one's own back, and is not sent for a new one. */
function toFields(form: Form, staff: Staff | null): NewStaff {
  const own = {
    model: form.model.trim() || null,
    context_budget_tokens: form.budget === "" ? null : Number(form.budget),
    max_output_tokens: form.longest === "" ? null : Number(form.longest),
  }
  const changed = Object.entries(own).filter(
    ([name, value]) => value !== (staff?.[name as keyof typeof own] ?? null),
  )
  const { name, role, persona, remembers } = form
  return {
    name: name.trim(),
    role: role.trim(),
    persona,
    memory_enabled: remembers,
    ...Object.fromEntries(changed),
  }
}
