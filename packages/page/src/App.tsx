/** The page: who one is, whom one talks to, and beside the talk what stands behind it. */
import { MarkdownContext, StaffClientContext, useResource } from "@staffstream/react"
import { useMemo, useState } from "react"
import { Api, type Staff } from "./api.ts"
import { Chat } from "./Chat.tsx"
import { ApiContext, ServerContext, StaffContext, useServer } from "./context.ts"
import { extensions } from "./extensions.ts"
import { KeyForm } from "./KeyForm.tsx"
import { Panel } from "./panels/Panel.tsx"
import { ErrorText, Spinner } from "./parts.tsx"
import { useRoute } from "./route.ts"
import { Sidebar } from "./Sidebar.tsx"
import { StaffEditor } from "./StaffEditor.tsx"
import { forgetKey, makeClient, readKey, saveKey } from "./session.ts"
import { useMenu } from "./useMenu.ts"

export function App() {
  const [key, setKey] = useState(readKey)
  const [refusedKey, setRefusedKey] = useState<string | null | undefined>(undefined)
  // A key can be revoked at any time, so any call may lead back to the form.
  const api = useMemo(() => new Api(makeClient(key, () => setRefusedKey(key))), [key])

  const enter = (entered: string | null, isKept = false) => {
    if (entered === null) forgetKey()
    else saveKey(entered, isKept)
    setRefusedKey(undefined)
    setKey(entered)
  }
  if (refusedKey === key) return <KeyForm wasWrong={key !== null} onEnter={enter} />
  return (
    <ApiContext value={api}>
      <StaffClientContext value={api.client}>
        <MarkdownContext value={extensions}>
          <Lobby key={key} onLeave={key === null ? null : () => enter(null)} />
        </MarkdownContext>
      </StaffClientContext>
    </ApiContext>
  )
}

/** What one waits in until the server has said who works here. */
function Lobby({ onLeave }: { onLeave: (() => void) | null }) {
  const staff = useResource((client, signal) => client.request("GET /api/v1/staff", { signal }), [])
  const me = useResource((client, signal) => client.request("GET /api/v1/me", { signal }), [])
  const models = useResource((client, signal) => client.request("GET /api/v1/models", { signal }), [])
  const server = useMemo(() => ({ me: me.data, models: models.data ?? [] }), [me.data, models.data])
  if (staff.data)
    return (
      <ServerContext value={server}>
        <Office staff={staff.data} onChange={staff.reload} onLeave={onLeave} />
      </ServerContext>
    )
  return (
    <main className="lobby">
      {staff.error ? (
        <>
          <ErrorText error={staff.error} />
          <button type="button" className="primary" onClick={staff.reload}>
            Try again
          </button>
        </>
      ) : (
        <Spinner />
      )}
    </main>
  )
}

function Office(props: { staff: Staff[]; onChange: () => void; onLeave: (() => void) | null }) {
  const { staff, onChange, onLeave } = props
  const [route, go] = useRoute()
  const [isMenuOpen, setMenuOpen] = useMenu()
  const { isAdmin } = useServer()
  const [edited, setEdited] = useState<Staff | "new" | null>(null)
  const present =
    staff.find(member => member.id === route.staffId) ?? (route.staffId === null ? staff[0] : undefined)

  const saved = (member: Staff | null) => {
    setEdited(null)
    onChange()
    if (member?.id !== present?.id)
      go({ staffId: member?.id ?? null, conversationId: null, panel: null, focus: null })
  }
  return (
    <div className="office" data-menu={isMenuOpen} data-panel={present ? route.panel : null}>
      <Sidebar
        staff={staff}
        present={present ?? null}
        onEdit={setEdited}
        onLeave={onLeave}
        onClose={() => setMenuOpen(false)}
        isOpen={isMenuOpen}
      />
      {present ? (
        <StaffContext value={present}>
          <Chat key={`${present.id}/${route.conversationId}`} onMenu={() => setMenuOpen(true)} />
          <Panel />
        </StaffContext>
      ) : (
        <main className="lobby">
          <h1>{staff.length === 0 ? "Nobody works here yet" : "There is no such staff member"}</h1>
          {isAdmin ? (
            <button type="button" className="primary" onClick={() => setEdited("new")}>
              New staff member
            </button>
          ) : (
            staff.length === 0 && <p>An admin of this server can make the first one.</p>
          )}
        </main>
      )}
      {edited && (
        <StaffEditor
          staff={edited === "new" ? null : edited}
          onSaved={saved}
          onClose={() => setEdited(null)}
        />
      )}
    </div>
  )
}
