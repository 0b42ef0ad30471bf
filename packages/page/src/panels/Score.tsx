/** A score as a small bar and a number. Scores are about 0 to 1; a higher one fills the bar. */
export function Score({ score }: { score: number }) {
  return (
    <span className="score" title={`Score ${score}`}>
      <meter min={0} max={1} value={Math.min(1, Math.max(0, score))} aria-label="Score" />
      {score.toFixed(2)}
    </span>
  )
}
