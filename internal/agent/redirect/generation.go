// Which of two agents on one node has the rules. While the agent is upgraded, the old and the new one run
// side by side; the newer wins, and the older leaves the rules alone for as long as the newer answers.

package redirect

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// generation is when an agent started, in nanoseconds since the machine did: rules do not outlive a boot,
// and unlike the time of day this never goes backwards. It stands in the comment of the divert rule.
type generation uint64

func currentGeneration() (generation, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0, fmt.Errorf("read the time since boot: %w", err)
	}
	return generation(now.Nano()), nil
}

const generationPrefix = "podid generation "

func (g generation) comment() string {
	return generationPrefix + strconv.FormatUint(uint64(g), 10)
}

func parseGeneration(comment string) (generation, bool) {
	digits, ok := strings.CutPrefix(comment, generationPrefix)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	return generation(n), err == nil
}
