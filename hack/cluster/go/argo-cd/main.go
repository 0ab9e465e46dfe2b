// Argo CD's comparison, and with -sync its sync after it, of one Application with a cluster.
//
// The release's application controller needs a repository server, Redis and the Application's own
// kinds. This program calls the same libraries as its CompareAppState and SyncAppState
// (controller/state.go and controller/sync.go), in the same order and with the same options, for
// manifests that are already rendered. It prints each resource with its status as JSON.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/argoproj/argo-cd/gitops-engine/pkg/cache"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/diff"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/sync"
	synccommon "github.com/argoproj/argo-cd/gitops-engine/pkg/sync/common"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/sync/hook"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/sync/resource"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/utils/kube"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/utils/tracing"
	"github.com/argoproj/argo-cd/v3/common"
	"github.com/argoproj/argo-cd/v3/pkg/apis/application/v1alpha1"
	"github.com/argoproj/argo-cd/v3/util/argo"
	argodiff "github.com/argoproj/argo-cd/v3/util/argo/diff"
	"github.com/argoproj/argo-cd/v3/util/argo/normalizers"
	"github.com/argoproj/argo-cd/v3/util/settings"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2/textlogger"
	"sigs.k8s.io/yaml"
)

const (
	labelKey = common.LabelKeyAppInstance
	tracking = v1alpha1.TrackingMethodAnnotation // Argo CD's default
	deadline = 2 * time.Minute
)

type resourceState struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Status    string `json:"status"` // "" where Argo CD gives none: skipped objects
	Prune     bool   `json:"prune"`
	// What the comparison saw, where it saw a difference.
	Live      json.RawMessage `json:"live,omitempty"`
	Predicted json.RawMessage `json:"predicted,omitempty"`
}

type answer struct {
	Status    string          `json:"status"`
	Hooks     []string        `json:"hooks"`
	Resources []resourceState `json:"resources"`
	// Of the sync: its phase, and each resource with the message of its apply.
	Phase   string            `json:"phase,omitempty"`
	Message string            `json:"message,omitempty"`
	Applied map[string]string `json:"applied,omitempty"`
}

func main() {
	kubeconfig := flag.String("kubeconfig", "", "of the cluster that is compared")
	application := flag.String("application", "", "a file with an Application")
	manifests := flag.String("manifests", "", "a file with a List, as helm template renders")
	doSync := flag.Bool("sync", false, "sync after the comparison, whatever it says")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	printed, err := run(ctx, *kubeconfig, *application, *manifests, *doSync)
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(printed)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, kubeconfig, application, manifests string, doSync bool) (*answer, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = 50, 100 // Argo CD's
	app, err := readApplication(application)
	if err != nil {
		return nil, err
	}
	targets, err := readManifests(manifests)
	if err != nil {
		return nil, err
	}
	cluster := newCache(config)
	if err := cluster.EnsureSynced(); err != nil {
		return nil, err
	}
	defer cluster.Invalidate()
	reconciled, err := reconcile(app, targets, cluster)
	if err != nil {
		return nil, err
	}
	differences, err := compare(ctx, app, config, cluster, reconciled)
	if err != nil {
		return nil, err
	}
	result := tell(reconciled, differences)
	if doSync {
		err = synchronise(ctx, app, config, reconciled, result)
	}
	return result, err
}

func readApplication(file string) (*v1alpha1.Application, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	app := &v1alpha1.Application{}
	if err := yaml.UnmarshalStrict(text, app); err != nil {
		return nil, err
	}
	if app.Spec.SyncPolicy == nil {
		app.Spec.SyncPolicy = &v1alpha1.SyncPolicy{}
	}
	return app, nil
}

func readManifests(file string) ([]*unstructured.Unstructured, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	list := &unstructured.UnstructuredList{}
	if err := list.UnmarshalJSON(text); err != nil {
		return nil, err
	}
	var found []*unstructured.Unstructured
	for i := range list.Items {
		found = append(found, &list.Items[i])
	}
	return found, nil
}

// newCache keeps whole the resources that carry an Application's tracking annotation, as
// liveStateCache.getCluster in controller/cache/cache.go.
func newCache(config *rest.Config) cache.ClusterCache {
	populate := func(un *unstructured.Unstructured, isRoot bool) (any, bool) {
		name := ""
		if isRoot {
			name = argo.NewResourceTracking().GetAppName(un, labelKey, tracking, "")
		}
		return name, name != "" || un.GetKind() == kube.CustomResourceDefinitionKind
	}
	return cache.NewClusterCache(config, cache.SetPopulateResourceInfoHandler(populate))
}

// reconcile pairs what is wanted with what is there; what is tracked and no longer wanted stands
// without a target. Hooks of a deletion are left out (partitionTargetObjsForSync).
func reconcile(app *v1alpha1.Application, targets []*unstructured.Unstructured, cluster cache.ClusterCache) (sync.ReconciliationResult, error) {
	namespace := app.Spec.Destination.Namespace
	var wanted []*unstructured.Unstructured
	for _, target := range targets {
		namespaced, err := cluster.IsNamespaced(target.GroupVersionKind().GroupKind())
		if err == nil && namespaced && target.GetNamespace() == "" {
			target.SetNamespace(namespace)
		}
		err = argo.NewResourceTracking().SetAppInstance(target, labelKey, app.Name, namespace, tracking, "")
		if err != nil {
			return sync.ReconciliationResult{}, err
		}
		if !ofDeletion(target) {
			wanted = append(wanted, target)
		}
	}
	lives, err := cluster.GetManagedLiveObjs(wanted, func(each *cache.Resource) bool {
		return each.Info == app.Name
	})
	if err != nil {
		return sync.ReconciliationResult{}, err
	}
	return sync.Reconcile(wanted, lives, namespace, cluster), nil
}

func ofDeletion(target *unstructured.Unstructured) bool {
	for key, names := range map[string][]string{
		"argocd.argoproj.io/hook": {"PreDelete", "PostDelete"},
		"helm.sh/hook":            {"pre-delete", "post-delete"},
	} {
		for _, each := range strings.Split(target.GetAnnotations()[key], ",") {
			if slices.Contains(names, strings.TrimSpace(each)) {
				return len(hook.Types(target)) == 0
			}
		}
	}
	return false
}

// compare is the middle of CompareAppState.
func compare(ctx context.Context, app *v1alpha1.Application, config *rest.Config, cluster cache.ClusterCache, reconciled sync.ReconciliationResult) (*diff.DiffResultList, error) {
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	manager := settings.NewSettingsManager(ctx, clients, app.Namespace)
	overrides, err := manager.GetResourceOverrides()
	if err != nil {
		return nil, err
	}
	options, err := manager.GetResourceCompareOptions()
	if err != nil {
		return nil, err
	}
	serverSide := resource.HasAnnotationOption(app, common.AnnotationCompareOptions, "ServerSideDiff=true")
	builder := argodiff.NewDiffConfigBuilder().
		WithDiffSettings(app.Spec.IgnoreDifferences, overrides, options.IgnoreAggregatedRoles, normalizers.IgnoreNormalizerOpts{}).
		WithTracking(labelKey, string(tracking)).
		WithNoCache().
		WithGVKParser(cluster.GetGVKParser()).
		WithManager(common.ArgoCDSSAManager).
		WithServerSideDiff(serverSide).
		WithStructuredMergeDiff(app.Spec.SyncPolicy.SyncOptions.HasOption("ServerSideApply=true"))
	if resource.HasAnnotationOption(app, common.AnnotationCompareOptions, "IncludeMutationWebhook=true") {
		builder.WithIgnoreMutationWebhook(false)
	}
	if serverSide {
		applier, cleanup, err := kubectl().ManageServerSideDiffDryRuns(config)
		if err != nil {
			return nil, err
		}
		defer cleanup()
		builder.WithServerSideDryRunner(diff.NewK8sServerSideDryRunner(applier))
	}
	built, err := builder.Build()
	if err != nil {
		return nil, err
	}
	return argodiff.StateDiffs(reconciled.Live, reconciled.Target, built)
}

func kubectl() *kube.KubectlCmd {
	return &kube.KubectlCmd{
		Log:    textlogger.NewLogger(textlogger.NewConfig()),
		Tracer: tracing.NopTracer{},
	}
}

// tell is the end of CompareAppState.
func tell(reconciled sync.ReconciliationResult, differences *diff.DiffResultList) *answer {
	result := &answer{Status: string(v1alpha1.SyncStatusCodeSynced), Hooks: []string{}}
	for _, each := range reconciled.Hooks {
		result.Hooks = append(result.Hooks, each.GetKind()+"/"+each.GetName())
	}
	for i, target := range reconciled.Target {
		live, difference := reconciled.Live[i], differences.Diffs[i]
		obj := live
		if obj == nil {
			obj = target
		}
		state := resourceState{Kind: obj.GetKind(), Namespace: obj.GetNamespace(), Name: obj.GetName(), Prune: target == nil}
		switch {
		case target != nil && hook.Skip(target):
		case target == nil || live == nil || difference.Modified:
			state.Status = string(v1alpha1.SyncStatusCodeOutOfSync)
			state.Live, state.Predicted = difference.NormalizedLive, difference.PredictedLive
			result.Status = state.Status
		default:
			state.Status = string(v1alpha1.SyncStatusCodeSynced)
		}
		result.Resources = append(result.Resources, state)
	}
	return result
}

// synchronise is SyncAppState for the sync options that an Application here may have.
func synchronise(ctx context.Context, app *v1alpha1.Application, config *rest.Config, reconciled sync.ReconciliationResult, result *answer) error {
	options := app.Spec.SyncPolicy.SyncOptions
	automated := app.Spec.SyncPolicy.Automated
	prune := automated != nil && automated.GetPrune()
	opts := []sync.SyncOpt{
		sync.WithOperationSettings(false, prune, false, false),
		sync.WithManifestValidation(!options.HasOption("Validate=false")),
		sync.WithServerSideApply(options.HasOption("ServerSideApply=true")),
		sync.WithServerSideApplyManager(common.ArgoCDSSAManager),
		sync.WithClientSideApplyMigration(true, ""),
	}
	if options.HasOption("CreateNamespace=true") {
		isNew := func(_, live *unstructured.Unstructured) (bool, error) { return live == nil, nil }
		opts = append(opts, sync.WithNamespaceModifier(isNew))
	}
	syncing, cleanup, err := sync.NewSyncContext("", reconciled, config, config, kubectl(), app.Spec.Destination.Namespace, opts...)
	if err != nil {
		return err
	}
	defer cleanup()
	for {
		syncing.Sync()
		phase, message, resources := syncing.GetState()
		if phase.Completed() {
			result.Phase, result.Message, result.Applied = string(phase), message, applied(resources)
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), fmt.Errorf("the sync is %s: %s", phase, message))
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func applied(resources []synccommon.ResourceSyncResult) map[string]string {
	found := map[string]string{}
	for _, each := range resources {
		found[each.ResourceKey.Kind+"/"+each.ResourceKey.Name] = strings.TrimSpace(string(each.Status) + " " + each.Message)
	}
	return found
}
