/*
 * The Jenkins jobs of Slipway: the folder `slipway` and the jobs in it, made from the tables below.
 *
 * The seed job runs this with Job DSL in the Groovy sandbox. It calls only methods of Job DSL's core:
 * https://jenkinsci.github.io/job-dsl-plugin/. What the sandbox lets a script do is in
 * https://github.com/jenkinsci/script-security-plugin, files generic-whitelist*. That is why there
 * are no classes here, no static calls, and no exception but java.lang.Exception.
 *
 * What a job does is in the Jenkinsfile; triggers, time-outs and concurrency are there as well.
 */

// The seed job's parameters: what holds when one is left empty or is not there, and its form.
// A value is never quoted in an error: someone may have put a password into the address.
Map<String, String> identifier = [preset: '', form: /[\w.-]*/, noun: 'the id of credentials, or empty']
Map<String, Map<String, String>> settings = [
    REPOSITORY: [
        preset: '',
        form: /((https?|ssh|git):\/\/([\w.-]+@)?[\w.-]+(:\d+)?\/[^\s@]+|[\w.-]+@[\w.-]+:[^\s@]+)/,
        noun: 'the address of a git repository by HTTP(S), SSH or git, with no password in it',
    ],
    BRANCH: [
        preset: 'main',
        form: /(?!.*(\.\.|\/\/|\/\.|\.lock(\/|$)))\w([\w.\/+-]*[\w+-])?/,
        noun: 'the name of a branch',
    ],
    GIT_CREDENTIALS: identifier,
    REGISTRY: [
        preset: '127.0.0.1:5050',
        form: /([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?(\/[a-z0-9]+([._-]+[a-z0-9]+)*)*/,
        noun: 'HOST[:PORT][/NAMESPACE]',
    ],
    REGISTRY_CREDENTIALS: identifier,
    KUBECONFIG_CREDENTIALS: identifier,
    AGENT: [preset: 'slipway', form: /[\w.-]+/, noun: 'the label of an agent'],
]

Binding given = binding
Map<String, String> seed = settings.collectEntries { name, setting ->
    String value = (given.hasVariable(name) ? this."${name}" : '') ?: setting.preset
    if (!(value ==~ setting.form)) {
        String wrong = "The seed parameter ${name} must be ${setting.noun}"
        String sentence = "${wrong}: correct it, then run the seed job again"
        throw new Exception(sentence) // groovylint-disable-line ThrowException
    }
    [name, value]
}

// What a person may choose for one build. Each reaches the pipeline as the variable that its text
// names, and never a command line.
Map<String, Map> building = [
    texts: [
        TAG: 'A tag to push under beside the one from git (PIPELINE_TAG)',
        FRESH: 'Steps to run even when nothing changed: lint test build push verify, or all (PIPELINE_FRESH)',
    ],
    choices: [
        BASES: [of: ['auto', 'registry', 'debian'], text: 'Where base images come from (PIPELINE_BASES)'],
        ENGINE: [of: ['auto', 'dagger', 'embedded'], text: 'What runs the steps (PIPELINE_ENGINE)'],
    ],
    fixed: ['REGISTRY', 'REGISTRY_CREDENTIALS', 'AGENT'],
]
Map<String, Map> deploying = [
    texts: [
        TAG: 'The tag in the registry whose images are deployed (PIPELINE_DEPLOY_TAG)',
        CONTEXT: 'The context in the kubeconfig; empty: its current one (PIPELINE_CONTEXT)',
    ],
    choices: [
        OVERLAY: [
            of: ['minikube', 'production'],
            text: 'What is deployed to; production asks for approval (PIPELINE_OVERLAY)',
        ],
    ],
    fixed: ['REGISTRY', 'REGISTRY_CREDENTIALS', 'KUBECONFIG_CREDENTIALS', 'AGENT'],
]

// What the seed has set for all builds. Each is a choice of one: were it free text, whoever may
// start a build could have the registry's password sent to a registry of their own.
Map<String, String> fixed = [
    REGISTRY: 'The registry, as the seed job has it (PIPELINE_REGISTRY)',
    REGISTRY_CREDENTIALS: 'The id of the user and password at the registry, as the seed job has it',
    KUBECONFIG_CREDENTIALS: 'The id of the kubeconfig, as the seed job has it',
    AGENT: 'The label of the agent, as the seed job has it',
]

List<Map> jobs = [
    [
        name: 'api-image',
        text: 'Lints, tests, builds and pushes the image of the API.',
        environment: ['PIPELINE_IMAGE=api', 'PIPELINE_STEPS=push'],
        queue: true,
        parameters: building,
    ],
    [
        name: 'nginx-image',
        text: 'Lints, tests, builds and pushes the image of the Nginx proxy.',
        environment: ['PIPELINE_IMAGE=nginx', 'PIPELINE_STEPS=push'],
        queue: true,
        parameters: building,
    ],
    [
        name: 'runner',
        text: 'The main job: lints, tests, builds and pushes both images, and verifies them together.',
        environment: [],
        queue: true,
        parameters: building,
    ],
    [
        name: 'deploy',
        text: 'Deploys images of the registry to Kubernetes, and takes them back when they do not serve.',
        environment: [],
        prepare: 'environment',
        command: ' deploy',
        parameters: deploying,
    ],
]

folder('slipway') {
    description("Slipway's jobs. The seed job makes them: what is changed here by hand, it takes back.")
}

jobs.each { made ->
    String variables = (["PIPELINE_REGISTRY=${seed.REGISTRY}"] + made.environment).join(' ')
    String prepare = "${variables} make ${made.prepare ?: 'setup'}"
    String laptop = "${prepare} && ${variables} .venv/bin/python -m pipeline${made.command ?: ''}"

    pipelineJob("slipway/${made.name}") {
        description("${made.text}\n\nThe same on a laptop, in a checkout of the repository:\n\n${laptop}")
        logRotator {
            numToKeep(50)
            artifactNumToKeep(20)
        }
        parameters {
            made.parameters.texts.each { name, text -> stringParam(name, '', text) }
            made.parameters.choices.each { name, choice -> choiceParam(name, choice.of, choice.text) }
            made.parameters.fixed.findAll { name -> seed[name] }.each { name ->
                choiceParam(name, [seed[name]], fixed[name])
            }
        }
        definition {
            cpsScm {
                scriptPath('jenkins/Jenkinsfile')
                lightweight(true)
                scm {
                    git {
                        remote {
                            url(seed.REPOSITORY)
                            if (seed.GIT_CREDENTIALS) {
                                credentials(seed.GIT_CREDENTIALS)
                            }
                        }
                        branch("refs/heads/${seed.BRANCH}")
                        extensions {
                            // What a build left that could not clean up after itself.
                            cleanBeforeCheckout()
                        }
                    }
                }
            }
        }
    }
    // A job has the triggers of its Jenkinsfile from its first build on, and loses them when the
    // seed job writes it again: see docs/jenkins.md.
    if (made.queue) {
        queue("slipway/${made.name}")
    }
}
