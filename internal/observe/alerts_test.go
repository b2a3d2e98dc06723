package observe_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/yaml"

	"github.com/podid-io/podid/internal/observe"
)

// TestAlerts checks that the alerting rules use only existing metrics and labels.
func TestAlerts(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("..", "..", "config", "alerts", "mic.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr         string
				Labels, Annotations map[string]string
			}
		}
	}
	if err := yaml.Unmarshal(data, &rules); err != nil {
		t.Fatal(err)
	}
	known := descriptions(observe.NewMetrics)
	docs, err := os.ReadFile(filepath.Join("..", "..", "docs", "mic.md"))
	if err != nil {
		t.Fatal(err)
	}
	metric := regexp.MustCompile(`(aadpodidentity_\w+?)(_count|_bucket|_sum)?(?:\{(\w+)[!=]|[^\w{]|$)`)
	n := 0
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			n++
			if rule.Annotations["summary"] == "" || rule.Annotations["description"] == "" || rule.Labels["severity"] == "" {
				t.Errorf("%s does not say what it is and what to do", rule.Alert)
			}
			if !strings.Contains(string(docs), "`"+rule.Alert+"`") {
				t.Errorf("docs/mic.md does not tell about %s", rule.Alert)
			}
			for _, m := range metric.FindAllStringSubmatch(rule.Expr, -1) {
				desc, ok := known[m[1]+m[2]]
				if !ok {
					desc, ok = known[m[1]]
				}
				if !ok {
					t.Errorf("%s asks for %s, which there is not", rule.Alert, m[1]+m[2])
				} else if m[3] != "" && !strings.Contains(desc, m[3]) {
					t.Errorf("%s asks for label %s of %s: %s", rule.Alert, m[3], m[1], desc)
				}
			}
		}
	}
	if n == 0 {
		t.Error("no rules")
	}
}

// descriptions are the metrics that are registered, by name, with their labels.
func descriptions(register func(prometheus.Registerer) *observe.Metrics) map[string]string {
	all := collecting{}
	register(all)
	return all
}

// collecting is a registerer that keeps descriptions only.
type collecting map[string]string

func (c collecting) Register(collector prometheus.Collector) error {
	described := make(chan *prometheus.Desc, 10)
	collector.Describe(described)
	close(described)
	name := regexp.MustCompile(`fqName: "(\w+)"`)
	for d := range described {
		if m := name.FindStringSubmatch(d.String()); m != nil {
			c[m[1]] = d.String()
		}
	}
	return nil
}

func (c collecting) MustRegister(all ...prometheus.Collector) {
	for _, collector := range all {
		_ = c.Register(collector) // never fails
	}
}

func (c collecting) Unregister(prometheus.Collector) bool { return false }
