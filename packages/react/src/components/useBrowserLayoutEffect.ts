import { useEffect, useLayoutEffect } from "react"

/** `useLayoutEffect` without React 18's warning that a server cannot run it, which is meant to be so here. */
export const useBrowserLayoutEffect = typeof window === "undefined" ? useEffect : useLayoutEffect
