/** The page: who one is, whom one talks to, and beside the talk what stands behind it. */
import { StaffClientContext } from "@staffstream/react"
import { useMemo, useState } from "react"
import { Api, type Staff } from "./api.ts"
import { Chat } from "./Chat.tsx"
import { ApiContext, StaffContext } from "./context.ts"
import { KeyForm } from "./KeyForm.tsx"
import { Panel } from "./panels/Panel.tsx"
import { ErrorText, Spinner } from "./parts.tsx"
import { useRoute } from "./route.ts"
import { Sidebar } from "./Sidebar.tsx"
import { StaffEditor } from "./StaffEditor.tsx"
import { forgetKey, makeClient, readKey, saveKey } from "./session.ts"
import { useLoad } from "./useLoad.ts"

export function App() {
  const [key, setKey] = useState(readKey)
  const api = useMemo(() => new Api(makeClient(key)), [key])
  const staff = useLoad(api.listStaff, [api])

  if (staff.error?.status === 401) {
    const enter = (entered: string, isKept: boolean) => {
      saveKey(entered, isKept)
      setKey(entered)
    }
    return <KeyForm wasWrong={key !== null} onEnter={enter} />
  }
  const leave = () => {
    forgetKey()
    setKey(null)
  }
  return (
    <ApiContext value={api}>
      <StaffClientContext value={api.client}>
        {staff.data ? (
          <Office
            key={key}
            staff={staff.data}
            onChange={staff.reload}
            onLeave={key === null ? null : leave}
          />
        ) : (
          <main className="lobby">{staff.error ? <ErrorText error={staff.error} /> : <Spinner />}</main>
        )}
      </StaffClientContext>
    </ApiContext>
  )
}

function Office(props: { staff: Staff[]; onChange: () => void; onLeave: (() => void) | null }) {
  const { staff, onChange, onLeave } = props
  const [route, go] = useRoute()
  const [isMenuOpen, setMenuOpen] = useState(false)
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
          <button type="button" className="primary" onClick={() => setEdited("new")}>
            New staff member
          </button>
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
