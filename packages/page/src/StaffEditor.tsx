/** A staff member's fields, to make one or to change one. */
import { type FormEvent, useState } from "react"
import type { Staff, StaffFields } from "./api.ts"
import { useApi } from "./context.ts"
import { Dialog, ErrorText } from "./parts.tsx"
import { useAction } from "./useLoad.ts"

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
  const [isLeaving, setLeaving] = useState(false)
  const save = useAction(async () => {
    const body = toFields(fields, staff)
    onSaved(await (staff === null ? api.createStaff(body) : api.updateStaff(staff.id, body)))
  })
  const letGo = useAction(async () => {
    if (staff === null) return
    await api.deleteStaff(staff.id)
    onSaved(null)
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
              placeholder="the server's"
              onChange={e => set({ model: e.target.value })}
            />
          </label>
          <label>
            Context budget, tokens
            <input
              type="number"
              min={200}
              value={fields.budget}
              placeholder="the server's"
              onChange={e => set({ budget: e.target.value })}
            />
          </label>
          <label>
            Longest reply, tokens
            <input
              type="number"
              min={1}
              value={fields.longest}
              placeholder="the server's"
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
        <ErrorText error={save.error ?? letGo.error} />
        <footer className="dialog-foot">
          {staff !== null && (
            <button
              type="button"
              className="danger quiet"
              disabled={letGo.isBusy}
              onClick={() => (isLeaving ? void letGo.run() : setLeaving(true))}
            >
              {isLeaving ? `Erase ${staff.name} and everything they hold` : "Let go"}
            </button>
          )}
          <button type="submit" className="primary" disabled={save.isBusy || fields.name.trim() === ""}>
            Save
          </button>
        </footer>
      </form>
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
function toFields(form: Form, staff: Staff | null): StaffFields {
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
