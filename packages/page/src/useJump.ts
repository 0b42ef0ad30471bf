/** Going to a message in its conversation, where it is shown in its place and marked. */
import { getChatStore } from "@staffstream/react"
import { useCallback } from "react"
import { useApi, useStaff } from "./context.ts"
import { useRoute } from "./route.ts"

/** Up to this width a panel lies over the talk, and would hide the message. */
const NARROW = "(max-width: 68rem)"

export function useJump(): (conversationId: string, messageId: string) => void {
  const api = useApi()
  const staff = useStaff()
  const [, go] = useRoute()
  return useCallback(
    (conversationId, messageId) => {
      const main = getChatStore(api.client, staff.id, {}).getSnapshot()
      go({
        conversationId: main.conversationId === conversationId ? null : conversationId,
        message: messageId,
        ...(matchMedia(NARROW).matches && { panel: null, focus: null }),
      })
    },
    [api, staff.id, go],
  )
}
