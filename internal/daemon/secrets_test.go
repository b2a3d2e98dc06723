package daemon

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podid-io/podid/internal/testenv"
)

const (
	clientSecret = "Zx8~a-client-secret-of-Entra-ID"
	// A JWT as the API server signs them for service accounts.
	brokerToken = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQ6c2hvcDpicm9rZXIifQ.c2lnbmF0dXJlLW9mLXRoZS1icm9rZXI"
	ownToken    = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQ6cG9kaWQ6bm1pIn0.c2lnbmF0dXJlLW9mLXRoZS1hZ2VudA"
)

// secretAPI is an API server with one Secret and one token.
func secretAPI(t *testing.T) *rest.Config {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		var answer any = &corev1.Secret{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "password"},
			Data:       map[string][]byte{"clientSecret": []byte(clientSecret)},
		}
		if strings.HasSuffix(r.URL.Path, "/token") {
			w.WriteHeader(http.StatusCreated)
			answer = &authenticationv1.TokenRequest{
				TypeMeta: metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "TokenRequest"},
				Status:   authenticationv1.TokenRequestStatus{Token: brokerToken},
			}
		}
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	return &rest.Config{Host: server.URL, BearerToken: ownToken, ContentConfig: rest.ContentConfig{ContentType: "application/json"}}
}

// readSecrets reads the Secret and creates a token with both kinds of client.
func readSecrets(ctx context.Context, config *rest.Config) error {
	typed, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	secret, err := typed.CoreV1().Secrets("shop").Get(ctx, "password", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if _, err := typed.CoreV1().Secrets("shop").Update(ctx, secret, metav1.UpdateOptions{}); err != nil {
		return err
	}
	token, err := typed.CoreV1().ServiceAccounts("shop").CreateToken(ctx, "broker", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if got := string(secret.Data["clientSecret"]); got != clientSecret || token.Status.Token != brokerToken {
		return fmt.Errorf("the API server answered %q and %q", got, token.Status.Token)
	}
	kinds := meta.NewDefaultRESTMapper(nil)
	kinds.Add(corev1.SchemeGroupVersion.WithKind("Secret"), meta.RESTScopeNamespace)
	controller, err := client.New(config, client.Options{Mapper: kinds})
	if err != nil {
		return err
	}
	return controller.Get(ctx, client.ObjectKey{Namespace: "shop", Name: "password"}, &corev1.Secret{})
}

// TestNoSecretInLog runs a daemon that reads a Secret and creates a token, at the highest
// verbosity that the flag accepts, with all libraries' loggers at the daemon's.
func TestNoSecretInLog(t *testing.T) {
	jwt := regexp.MustCompile(`eyJ[\w-]+\.[\w-]+\.[\w-]+`)
	for _, format := range []string{"text", "json"} {
		for _, verbosity := range []string{"0", "6", "8", "10", "99"} {
			t.Run(format+" "+verbosity, func(t *testing.T) {
				t.Cleanup(klog.ClearLogger)
				var stdout strings.Builder
				var stderr testenv.Buffer
				setLoggers := func(log logr.Logger) {
					klog.SetLogger(log)
					ctrl.SetLogger(log)
				}
				p := Process{
					Args: []string{"--v=" + verbosity, "--logging-format=" + format}, Getenv: noEnv,
					Stdout: &stdout, Stderr: &stderr, SetLoggers: setLoggers,
				}
				o := &Options{}
				err := o.Parse(usage(), p.Args, &stdout, func(*flag.FlagSet) {})
				code := p.Main(t.Context(), Daemon{Name: "daemon", Options: o, Error: err, Run: func(ctx context.Context) error {
					config := secretAPI(t)
					return readSecrets(ctx, config)
				}})
				log := stderr.String()
				if code != ExitDone {
					t.Fatalf("code %d: %s", code, log)
				}
				for what, text := range map[string]string{
					"the client secret":            clientSecret,
					"the client secret in base64":  base64.StdEncoding.EncodeToString([]byte(clientSecret)),
					"the client secret in a dump":  hex.EncodeToString([]byte(clientSecret[:8])),
					"the broker's token":           brokerToken,
					"the payload of a broker":      strings.Split(brokerToken, ".")[1],
					"the daemon's own credentials": ownToken,
				} {
					if strings.Contains(log, text) {
						t.Errorf("%s is in the log:\n%s", what, log)
					}
				}
				if found := jwt.FindString(log); found != "" {
					t.Errorf("a JWT is in the log: %s", found)
				}
				if limited := strings.Contains(log, "log verbosity limited"); limited != (len(verbosity) > 1 || verbosity == "8") {
					t.Errorf("the log says that its verbosity is limited: %v", limited)
				}
			})
		}
	}
}
