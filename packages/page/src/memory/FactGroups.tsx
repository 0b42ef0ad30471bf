/** The facts that hold now, by whom they are about and by topic, each group counted and read in pages. */
import type { MemoryGroup, MemoryOverview } from "@staffstream/react"
import { useConversations } from "@staffstream/react"
import { useRef, useState } from "react"
import { useStaff } from "../context.ts"
import { useTexts } from "../texts/texts.ts"
import { MemoryList } from "./MemoryList.tsx"

/** What extraction calls the user. */
const USER = "user"
const PAGE_SIZE = 20
/** So many groups are open at first; the others open at a click. */
const OPEN_GROUPS = 6

export function FactGroups({ overview, openId }: { overview: MemoryOverview; openId: string | null }) {
  const t = useTexts()
  const staff = useStaff()
  const conversations = useConversations(staff.id)
  const ownName = conversations.items?.find(({ user_name }) => user_name !== "")?.user_name
  const people = byPerson(useSteadyGroups(overview.groups))
  if (people.length === 0) return <p className="quiet">{t.nothingYet}</p>
  const nameOf = (subject: string) => (subject === USER ? (ownName ?? t.you) : subject || t.general)
  let shown = 0
  return people.map(([subject, groups]) => (
    <section key={subject} className="person">
      <h3>
        <bdi>{nameOf(subject)}</bdi> <span className="quiet">{sum(groups)}</span>
      </h3>
      {groups.map(group => (
        <Topic key={group.category} group={group} isOpen={shown++ < OPEN_GROUPS} openId={openId} />
      ))}
    </section>
  ))
}

function Topic({ group, isOpen, openId }: { group: MemoryGroup; isOpen: boolean; openId: string | null }) {
  const t = useTexts()
  const [isShown, setShown] = useState(isOpen)
  const { subject, category, count } = group
  const filter = { kind: "fact" as const, current: true, pinned_first: true, subject, category }
  return (
    <details className="section" open={isShown} onToggle={event => setShown(event.currentTarget.open)}>
      <summary>
        {t.categories[category || "other"] ?? category} <span className="quiet">{count}</span>
      </summary>
      {isShown && <MemoryList filter={filter} openId={openId} empty={null} pageSize={PAGE_SIZE} />}
    </details>
  )
}

/** The groups with those that have become empty since: what was forgotten there keeps its place. */
function useSteadyGroups(groups: readonly MemoryGroup[]): readonly MemoryGroup[] {
  const known = useRef(new Map<string, MemoryGroup>())
  const key = ({ subject, category }: MemoryGroup) => JSON.stringify([subject, category])
  for (const [name, group] of known.current) known.current.set(name, { ...group, count: 0 })
  for (const group of groups) known.current.set(key(group), group)
  return [...known.current.values()]
}

/** The user first, then whoever most is known about. */
function byPerson(groups: readonly MemoryGroup[]): [string, MemoryGroup[]][] {
  const people = new Map<string, MemoryGroup[]>()
  for (const group of groups) people.set(group.subject, [...(people.get(group.subject) ?? []), group])
  const rank = (subject: string) => (subject === USER ? 0 : 1)
  return [...people].sort(([a, ofA], [b, ofB]) => rank(a) - rank(b) || sum(ofB) - sum(ofA))
}

function sum(groups: readonly MemoryGroup[]): number {
  return groups.reduce((total, { count }) => total + count, 0)
}
