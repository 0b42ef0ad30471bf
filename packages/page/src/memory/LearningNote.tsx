/** What is not learned from yet, and learning from it at once. */
import { useLearning } from "@staffstream/react"
import { ErrorText } from "../parts.tsx"
import { useTexts } from "../texts/texts.ts"
import { useAction } from "../useAction.ts"

export function LearningNote({ staffId }: { staffId: string }) {
  const t = useTexts()
  const { data, isLearning, learnNow } = useLearning(staffId)
  const start = useAction(learnNow)
  const waiting = data?.waiting_messages ?? 0
  if (isLearning) {
    return (
      <p className="learning" role="status">
        <span className="dot" data-kind="running" /> {t.learning}
      </p>
    )
  }
  if (waiting === 0) return null
  return (
    <p className="learning">
      {t.waitingCount(waiting)}
      <button type="button" className="link" disabled={start.isBusy} onClick={() => void start.run()}>
        {t.learnNow}
      </button>
      <ErrorText error={start.error} />
    </p>
  )
}
